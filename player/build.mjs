// Builds the bundle into dist/ (default), or the unit tests into build/ (--tests). The same sources give the same
// bytes: no dates, no paths, no hashes in names.

import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));

const { version } = JSON.parse(await readFile("node_modules/hls.js/package.json", "utf8"));
const NOTICE = `/*! Open Connect player, Apache-2.0. Contains hls.js ${version}, Copyright (c) 2017 Dailymotion, Apache-2.0; see LICENSES.txt. */`;

async function buildTests() {
  await rm("build", { recursive: true, force: true });
  const tests = (await readdir("test")).filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`);
  const common = { bundle: true, platform: "node", format: "esm", target: "node18", logLevel: "warning" };
  await build({ ...common, entryPoints: tests, outdir: "build", outExtension: { ".js": ".mjs" } });
}

async function buildBundle() {
  await rm("dist", { recursive: true, force: true });
  await mkdir("dist");
  const common = { bundle: true, minify: true, legalComments: "inline", charset: "utf8", logLevel: "warning" };
  await build({
    ...common,
    entryPoints: ["src/page.ts"],
    outfile: "dist/player.js",
    format: "iife",
    target: "es2022",
    banner: { js: NOTICE },
  });
  await build({ ...common, entryPoints: ["src/player.css"], outfile: "dist/player.css" });
  await copyFile("src/index.html", "dist/index.html");
  await writeFile("dist/LICENSES.txt", `hls.js ${version}\n\n${await readFile("node_modules/hls.js/LICENSE", "utf8")}`);
}

await (process.argv.includes("--tests") ? buildTests() : buildBundle());
