/** The console in a real browser, on a real server with the demo. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium, type Page } from "playwright-core";
import type { Test } from "tap";
import { parseConfig } from "../../src/config.ts";
import { startServer } from "../../src/main.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { ADMIN_KEY } from "./app.ts";
import { BROWSER } from "./requirements.ts";
import { temporaryFolder } from "./server.ts";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Window {
  readonly url?: string;
  readonly width?: number;
  readonly scheme?: "light" | "dark";
}

/** A page, and what goes wrong in it: errors, reports of the content security policy, requests to elsewhere. */
interface Opened {
  readonly page: Page;
  readonly wrong: string[];
  readonly asked: string[];
}

export interface Console {
  readonly url: string;
  /** Opens the console in a new window. */
  open(t: Test, options?: Window): Promise<Opened>;
  /** The same, signed in. */
  signedIn(t: Test, key?: string, options?: Window): Promise<Opened>;
  /** Keeps all 32 slots busy, and requests waiting, until what it returns is called; it resolves when they have ended. */
  busy(t: Test): () => Promise<void>;
  /** Asks an HTTP route with the admin key. */
  admin(method: string, path: string, body?: object): Promise<Record<string, string>>;
}

/** Starts a server with the demo's prefixes and an admin key, and a browser; both are stopped with the test. */
export async function startConsole(t: Test, ...flags: readonly string[]): Promise<Console> {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const config = parseConfig(
    [
      ...["--port", "0", "--threads", "1", "--prefixes", "prefixes", "--drain-timeout", "5"],
      ...["--store", `lmdb:${join(folder.path, "store")}`, "--cache-dir", join(folder.path, "cache")],
      ...flags,
    ],
    { PREFIXD_ADMIN_KEY: ADMIN_KEY },
  );
  if (config === "help") throw new Error("no configuration");
  const server = await startServer(config, createLogger("silent"));
  t.teardown(() => server.stop());
  const browser = await chromium.launch({ executablePath: BROWSER, args: ["--no-sandbox"] });
  t.teardown(() => browser.close());

  const open: Console["open"] = async (t, { url = server.url, width = 1280, scheme = "light" } = {}) => {
    const page = await browser.newPage({
      viewport: { width, height: 800 },
      colorScheme: scheme,
      reducedMotion: "no-preference",
    });
    t.teardown(() => page.close());
    const wrong: string[] = [];
    const asked: string[] = [];
    page.on("pageerror", (error) => wrong.push(error.message));
    page.on("request", (request) => {
      asked.push(request.url());
      const elsewhere = !request.url().startsWith(`${url}/`) && !request.url().startsWith(`blob:${url}/`);
      if (elsewhere) wrong.push(`asked ${request.url()}`);
    });
    page.on("console", (message) => {
      // The browser logs answers such as 401, which the pages show.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource"))
        wrong.push(message.text());
    });
    await page.goto(`${url}/console`);
    return { page, wrong, asked };
  };
  return {
    url: server.url,
    open,
    async signedIn(t, key = ADMIN_KEY, options = {}) {
      const opened = await open(t, options);
      await opened.page.getByLabel("Your key").fill(key);
      await opened.page.keyboard.press("Enter");
      await opened.page.getByRole("heading", { level: 1, name: "One prompt" }).waitFor();
      return opened;
    },
    busy(t) {
      const stop = new AbortController();
      const body = JSON.stringify({
        ...{ prompts: Array(40).fill("a"), prefix_id: "intent", max_new_tokens: 500, ignore_eos: true },
      });
      const headers = { authorization: `Bearer ${ADMIN_KEY}`, "content-type": "application/json" };
      const ask = async (): Promise<void> => {
        while (!stop.signal.aborted) {
          const response = await fetch(`${server.url}/generate`, {
            method: "POST",
            signal: stop.signal,
            headers,
            body,
          });
          if (!response.ok) throw new Error(await response.text());
          await response.arrayBuffer();
        }
      };
      // The second fills what the first leaves.
      const asking = Promise.allSettled([ask(), ask()]);
      const over = async (): Promise<void> => {
        stop.abort();
        await asking;
      };
      t.teardown(over);
      return over;
    },
    async admin(method, path, body) {
      const response = await fetch(server.url + path, {
        method,
        headers: { authorization: `Bearer ${ADMIN_KEY}`, "content-type": "application/json" },
        body: body === undefined ? null : JSON.stringify(body),
      });
      return (await response.json()) as Record<string, string>;
    },
  };
}

/** To another page, by the menu. */
export async function go(page: Page, name: string): Promise<void> {
  await page.getByRole("navigation").getByRole("link", { name }).click();
  await page.getByRole("heading", { level: 1, name }).waitFor();
}

/** Runs the comparison of five columns that the page begins with, to its end. */
export async function run(page: Page): Promise<void> {
  await page.locator(".column").nth(4).waitFor();
  await page.getByRole("button", { name: /^Run/ }).click();
  await page.locator(".slots .ended").nth(4).waitFor();
}

/** What axe finds, and whether the page is wider than its window. */
export async function faults(page: Page): Promise<string[]> {
  const found = await page.evaluate<string[]>(
    `${AXE}; axe.run().then(({ violations }) => violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => id + ": " + html)))`,
  );
  const wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth");
  return Number(wide) > 0 ? [...found, `${String(wide)} pixels too wide`] : found;
}

/** Drops files on the page's drop zone. */
export async function drop(
  page: Page,
  files: readonly { readonly name: string; readonly content: Uint8Array }[],
): Promise<void> {
  await page.locator(".drop").waitFor();
  const encoded = files.map(({ name, content }) => ({ name, base64: Buffer.from(content).toString("base64") }));
  await page.evaluate(
    `const data = new DataTransfer();
     for (const { name, base64 } of ${JSON.stringify(encoded)})
       data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
     document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));`,
  );
}
