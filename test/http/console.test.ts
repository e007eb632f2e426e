import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import Fastify from "fastify";
import t, { type Test } from "tap";
import type { PrefixdError } from "../../src/errors.ts";
import type { TypedApp } from "../../src/http/app-parts.ts";
import { consoleRoutes } from "../../src/http/console.ts";
import { buildTestApp } from "../support/app.ts";
import { repositoryFile } from "../support/docs-block.ts";

const BUILT = repositoryFile("dist/console");
const POLICY = /^default-src 'none'; script-src 'self'; style-src 'self';/;

async function served(t: Test, folder: string): Promise<TypedApp> {
  const app = Fastify({ logger: false }) as unknown as TypedApp;
  app.setErrorHandler((error: PrefixdError, _request, reply) => reply.code(error.status).send(error.message));
  await consoleRoutes(app, folder);
  t.teardown(() => app.close());
  return app;
}

t.test("the page is asked for anew each time, what it loads is kept for a year", async (t) => {
  const folder = t.testdir({
    "index.html": "<title>prefixd</title>",
    assets: { "main-ABC.js": "1", "main-ABC.css": "a{}" },
  });
  const app = await served(t, `${folder}/`);
  const page = await app.inject("/console/");
  t.equal(page.statusCode, 200);
  t.match(page.headers, {
    "content-type": /^text\/html/,
    "cache-control": "no-cache",
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
  });
  t.notMatch(page.headers["content-security-policy"], /unsafe/);
  for (const [file, type] of [
    ["main-ABC.js", /javascript/],
    ["main-ABC.css", /^text\/css/],
  ] as const)
    t.match((await app.inject(`/console/assets/${file}`)).headers, {
      "content-type": type,
      "cache-control": "public, max-age=31536000, immutable",
      "content-security-policy": POLICY,
    });
  const bare = await app.inject("/console");
  t.same([bare.statusCode, bare.headers.location], [302, "/console/"]);
  for (const path of ["/console/none.js", "/console/../package.json", "/console/%2e%2e/%2e%2e/package.json"])
    t.equal((await app.inject(path)).statusCode, 404, path);
});

t.test("a clone that was never built says so, and can do without", async (t) => {
  const app = await served(t, join(t.testdir({}), "none"));
  for (const path of ["/console/", "/console/assets/main.js"])
    t.match(await app.inject(path), { statusCode: 404, body: /npm run build/ });
  const off = await buildTestApp(t, { console: false });
  for (const path of ["/console", "/console/"])
    t.match((await off.fastify.inject(path)).json(), { code: "not_found", detail: "There is nothing at this path." });
});

t.test("all of it is small, and loads nothing from elsewhere", async (t) => {
  t.ok(existsSync(BUILT), "npm run build has made it");
  const files = (readdirSync(BUILT, { recursive: true }) as string[]).filter((file) =>
    statSync(join(BUILT, file)).isFile(),
  );
  const contents = files.map((file) => readFileSync(join(BUILT, file)));
  const size = contents.reduce((sum, content) => sum + gzipSync(content).length, 0);
  t.comment(`${files.length} files, ${size} bytes gzipped`);
  t.ok(size < 150 * 1024, `${size} bytes`);
  const page = readFileSync(join(BUILT, "index.html"), "utf8");
  t.notMatch(page, /<style|style=|<script>|\son\w+=|https?:/);
  const named = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, file]) => file!);
  t.same(
    named.filter((file) => !files.includes(file)),
    [],
  );
  t.ok(
    named.filter((file) => /^assets\/main-[A-Z0-9]{8}\.(js|css)$/.test(file)).length === 2,
    "named by their content",
  );
  for (const [i, file] of files.entries())
    if (/\.(css|js)$/.test(file)) t.notMatch(String(contents[i]), /@import|url\(["']?https?:|sourceMappingURL/, file);
});
