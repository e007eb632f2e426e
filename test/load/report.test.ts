/** The report from disk in a real browser: plots are there and have their data, nothing is asked of the network. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import t from "tap";
import { compareHtml } from "../../src/load/report/compare.ts";
import { reportHtml } from "../../src/load/report/html.ts";
import { BROWSER, lacking } from "../support/requirements.ts";
import { sampleResult } from "./sample-result.ts";

/** A name that no browser fetches. */
const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

t.test("a report refers to nothing outside it", async (t) => {
  for (const html of [reportHtml(sampleResult()), compareHtml(sampleResult(), sampleResult(), ["a", "b"])]) {
    t.notMatch(html, /<(script|link|img|iframe|object)|src=|href=|@import|url\(/i);
    t.notMatch(html, /NaN|Infinity|undefined|\[object/);
    t.same(
      [...html.matchAll(/https?:\/\/[^\s"<&]+/g)]
        .map(([url]) => url)
        .filter((url) => url !== SVG_NAMESPACE && !url.startsWith("http://127.0.0.1:8080")),
      [],
      "no address but the server's, as text",
    );
  }
  t.ok(reportHtml(sampleResult()).includes("A note with &lt;b&gt; &amp; &quot;quotes&quot;."));
});

t.test("a report works in a browser", { skip: lacking("chromium") }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "prefixd-report-"));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const browser = await chromium.launch({ executablePath: BROWSER, args: ["--no-sandbox"] });
  t.teardown(() => browser.close());
  const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
  const asked: string[] = [];
  const problems: string[] = [];
  page.on("request", (request) => asked.push(request.url()));
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));

  const files = {
    report: reportHtml(sampleResult()),
    compare: compareHtml(sampleResult(), sampleResult(), ["a", "b"]),
  };
  for (const [name, html] of Object.entries(files)) {
    const file = join(dir, `${name}.html`);
    writeFileSync(file, html);
    const url = pathToFileURL(file).href;
    await page.goto(url);
    t.same(asked.splice(0), [url], "nothing but the file itself");
    t.same(problems, []);
    const titles = await page.locator("figure svg > title").allTextContents();
    const wanted =
      name === "report"
        ? ["Latency over time", "TTFT, distribution", "Throughput against offered load", "Tokens by weight, per user"]
        : ["TTFT, distribution", "Tokens over time"];
    for (const title of wanted)
      t.ok(
        titles.some((shown) => shown.startsWith(title)),
        title,
      );
    for (const svg of await page.locator("figure svg").all()) {
      const box = (await svg.boundingBox())!;
      t.ok(box.width > 300 && box.height > 40, "the plot has room");
      const marks = await svg
        .locator("polyline, circle, rect")
        .evaluateAll(
          (all) =>
            all.filter((mark) => (mark as unknown as { getBBox(): { width: number } }).getBBox().width > 0).length,
        );
      t.ok(marks > 0, `${await svg.locator("> title").textContent()}: ${marks} marks`);
    }
    if (process.env["SCREENSHOT"])
      await page.screenshot({ path: `${process.env["SCREENSHOT"]}-${name}.png`, fullPage: true });
  }
});
