// Builds the bundle into dist/ (default), or the unit tests into build/ (--tests). The same sources give the same
// bytes: no dates, no paths, no hashes in names.

import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));

const { version } = JSON.parse(await readFile("node_modules/hls.js/package.json", "utf8"));
const NOTICE = `/*! Open Connect player, Apache-2.0. Contains hls.js ${version}, Copyright (c) 2017 Dailymotion, Apache-2.0, changed in one line (build.mjs); see LICENSES.txt. */`;

/** hls.js gives its subtitle tracks an empty `data:` source, which a policy of `media-src blob:` refuses. */
const emptyTrackAsBlob = {
  name: "empty-track-as-blob",
  setup({ onLoad }) {
    onLoad({ filter: /hls\.js\/dist\/hls\.mjs$/ }, async ({ path }) => {
      const parts = (await readFile(path, "utf8")).split("'data:,WEBVTT'");
      if (parts.length !== 2) throw new Error(`${path}: expected one empty track source, found ${parts.length - 1}`);
      return { contents: parts.join('URL.createObjectURL(new Blob(["WEBVTT"], { type: "text/vtt" }))') };
    });
  },
};

async function buildTests() {
  await rm("build", { recursive: true, force: true });
  const tests = (await readdir("test")).filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`);
  const common = { bundle: true, platform: "node", format: "esm", target: "node18", logLevel: "warning" };
  await build({ ...common, entryPoints: tests, outdir: "build", outExtension: { ".js": ".mjs" } });
}

async function buildBundle() {
  const common = { bundle: true, minify: true, legalComments: "inline", charset: "utf8", logLevel: "warning", write: false };
  const script = await build({
    ...common,
    entryPoints: ["src/page.ts"],
    format: "iife",
    target: "es2022",
    banner: { js: NOTICE },
    plugins: [emptyTrackAsBlob],
  });
  const style = await build({ ...common, entryPoints: ["src/player.css"] });
  const files = new Map([
    ["index.html", await readFile("src/index.html")],
    ["player.js", script.outputFiles[0].contents],
    ["player.css", style.outputFiles[0].contents],
    ["LICENSES.txt", Buffer.from(await licences())],
  ]);
  await mkdir("dist", { recursive: true });
  for (const name of await readdir("dist")) if (!files.has(name)) await rm(`dist/${name}`, { recursive: true });
  for (const [name, bytes] of files) await keep(`dist/${name}`, bytes);
}

/** Leaves a file alone that is the same already: what is built from it need not be built again. */
async function keep(path, bytes) {
  const before = await readFile(path).catch(() => null);
  if (before === null || Buffer.compare(before, bytes) !== 0) await writeFile(path, bytes);
}

/** hls.js keeps no notices of what it was itself bundled from; its package.json names them. */
async function licences() {
  const own = await readFile("node_modules/hls.js/LICENSE", "utf8");
  return [
    `hls.js ${version}\n\n${own.trim()}`,
    "Within hls.js:",
    "eventemitter3, The MIT License (MIT), Copyright (c) 2014 Arnout Kazemier",
    "url-toolkit, Apache License 2.0, Copyright (c) 2016 Tom Jenkinson",
    "vtt.js, Apache License 2.0, Copyright (c) 2013 vtt.js Contributors (http://mozilla.org)",
    MIT,
  ].join("\n\n") + "\n";
}

const MIT = `The MIT License: Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software,
and to permit persons to whom the Software is furnished to do so, subject to the following conditions: The above
copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.
THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`;

await (process.argv.includes("--tests") ? buildTests() : buildBundle());
