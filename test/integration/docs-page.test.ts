/** /docs in a real browser: the page shows every route and loads nothing from other hosts. */
import { join } from "node:path";
import { chromium } from "playwright-core";
import t from "tap";
import { BROWSER, lacking } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder } from "../support/server.ts";

t.test("the API's page works in a browser", { skip: lacking("chromium") }, async (t) => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const server = await startServerProcess([
    "--cache-dir",
    join(folder.path, "cache"),
    "--store",
    `lmdb:${join(folder.path, "store")}`,
  ]);
  t.teardown(() => server.signal("SIGKILL"));
  const browser = await chromium.launch({ executablePath: BROWSER, args: ["--no-sandbox"] });
  t.teardown(() => browser.close());
  const page = await browser.newPage();
  const asked: string[] = [];
  const problems: string[] = [];
  page.on("request", (request) => asked.push(request.url()));
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.goto(`${server.url}/docs`);
  await page.waitForSelector("#operations-generate-generate");
  const operations = await page.locator(".opblock-summary-path").allInnerTexts();
  for (const path of [
    "/generate",
    "/prefixes/{id}/generate",
    "/prefixes",
    "/prefixes/{id}",
    "/health/ready",
    "/metrics",
  ]) {
    t.ok(
      operations.some((shown) => shown.replace(/\u200b/g, "") === path),
      path,
    );
  }
  t.equal(await page.locator("button.authorize").count(), 1, "where a key is entered");
  t.same(
    asked.filter((url) => !url.startsWith(server.url) && !url.startsWith("data:")),
    [],
    "nothing from elsewhere",
  );
  t.same(problems, []);
  if (process.env["SCREENSHOT"]) await page.screenshot({ path: process.env["SCREENSHOT"], fullPage: true });
});
