// node dash.mjs MANIFEST PLAYER…: plays a DASH manifest in each of the players named (`dashjs`, `shaka`), each in a headless
// Chromium of its own. Prints the appliance that
// the manifest of each put first when all have passed the third second, and at the end one line of JSON: what each page saw.
// The test that starts it (`cases/dash.rs`) judges.

import { createServer } from "node:http";
import { readFileSync } from "node:fs";

import { Chromium, findChromium } from "../../player/test/lab/chromium.mjs";

const [manifest, ...players] = process.argv.slice(2);
const MODULES = new URL("../../player/node_modules/", import.meta.url);
const FILES = new Map([
  ["/", ["text/html", new URL("dash.html", import.meta.url)]],
  ["/dashjs.js", ["text/javascript", new URL("dashjs/dist/modern/umd/dash.all.min.js", MODULES)]],
  ["/shaka.js", ["text/javascript", new URL("shaka-player/dist/shaka-player.dash-es2021.js", MODULES)]],
]);
const START_MS = 30_000;
const END_MS = 60_000;

const server = createServer((request, response) => {
  const [type, file] = FILES.get(new URL(request.url, "http://page").pathname) ?? [];
  if (file === undefined) return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": `${type}; charset=utf-8` }).end(readFileSync(file));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
// A browser each: a tab that is not in front does not start to play.
const browsers = await Promise.all(players.map(() => Chromium.start(findChromium())));
try {
  const query = (player) => new URLSearchParams({ player, manifest });
  const address = (player) => `http://127.0.0.1:${server.address().port}/?${query(player)}`;
  const pages = await Promise.all(players.map((player, index) => browsers[index].open(address(player))));
  const until = (condition, limitMs) => Promise.all(pages.map((page) => page.until(condition, limitMs)));
  await until("ocaCheck.state === 'error' || ocaCheck.currentTime > 3", START_MS);
  console.log((await Promise.all(pages.map((page) => page.evaluate("ocaCheck.best")))).join(" "));
  await until("['ended', 'error'].includes(ocaCheck.state)", END_MS);
  const results = await Promise.all(pages.map((page) => page.evaluate("JSON.stringify(ocaCheck)")));
  console.log(`{${players.map((player, index) => `"${player}":${results[index]}`).join(",")}}`);
} finally {
  await Promise.all(browsers.map((browser) => browser.stop()));
  server.closeAllConnections();
  server.close();
}
