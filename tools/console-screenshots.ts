/**
 * Makes docs/images/console-*.png: each page of the console on a server with the demo. Needs chromium and a build.
 *
 *     npm run build && npx tsx tools/console-screenshots.ts
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { parseConfig } from "../src/config.ts";
import { startServer } from "../src/main.ts";
import { createLogger } from "../src/observability/logging.ts";
import { BROWSER } from "../test/support/requirements.ts";

const ADMIN_KEY = "a-key-for-nobody-but-the-screenshots";
const IMAGES = new URL("../docs/images/", import.meta.url).pathname;
/** Users with their weights and the prefixes that they ask for, on Live. */
const LOAD = [
  ["acme", 2, ["admin/intent", "admin/datenorm"], 14],
  ["globex", 1, ["admin/truecase", null], 18],
  ["hooli", 4, ["admin/sgd_nlg", "admin/e2e"], 9],
] as const;

const folder = mkdtempSync(join(tmpdir(), "prefixd-screenshots-"));
const config = parseConfig(
  ["--port", "0", "--prefixes", "prefixes", "--store", `lmdb:${join(folder, "store")}`, "--drain-timeout", "1"],
  { PREFIXD_ADMIN_KEY: ADMIN_KEY },
);
if (config === "help") throw new Error("no configuration");
const server = await startServer(config, createLogger("error"));
const browser = await chromium.launch({ executablePath: BROWSER, args: ["--no-sandbox"] });
mkdirSync(IMAGES, { recursive: true });

async function send(key: string, path: string, body: object, signal?: AbortSignal): Promise<Record<string, string>> {
  const response = await fetch(server.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
  return (await response.json()) as Record<string, string>;
}

try {
  const keys = new Map<string, string>();
  for (const [id, weight] of LOAD) {
    await send(ADMIN_KEY, "/admin/users", { id, weight, limits: { tokens_per_minute: weight * 600_000 } });
    keys.set(id, (await send(ADMIN_KEY, `/admin/users/${id}/keys`, {}))["key"]!);
  }
  for (const scheme of ["light", "dark"] as const) {
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: scheme });
    const shoot = (name: string): Promise<unknown> => page.screenshot({ path: join(IMAGES, `console-${name}.png`) });
    await page.goto(`${server.url}/console/`);
    await page.getByLabel("Your key").fill(ADMIN_KEY);
    await page.keyboard.press("Enter");
    await page.getByText("your 5 rows will run here").waitFor();
    if (scheme === "light") {
      // Twice: the first answers come while functions are still being compiled.
      for (let i = 0; i < 2; i++) {
        await page.keyboard.press("Control+Enter");
        await page.getByText("5 ended").waitFor();
      }
      await page.locator(".c3").getByText("London").hover();
      await shoot("compare");
      for (const name of ["Prefixes", "Users"] as const) {
        await page.getByRole("navigation").getByRole("link", { name }).click();
        await page.getByRole("button", { name: name === "Users" ? "globex" : "intent" }).click();
        await page
          .getByRole("complementary")
          .getByText(name === "Users" ? "Requests" : "Digest")
          .waitFor();
        await shoot(name.toLowerCase());
      }
    } else {
      await page.getByRole("navigation").getByRole("link", { name: "Live" }).click();
      const stop = new AbortController();
      const load = LOAD.flatMap(([id, , prefixes, count]) =>
        Array.from({ length: count }, async (_, i) => {
          for (let turn = i; !stop.signal.aborted; turn++) {
            const body = { prompt: "It was finished on\n=>", max_new_tokens: 40 + 13 * (turn % 9), ignore_eos: true };
            const prefix = prefixes[turn % 2];
            await send(keys.get(id)!, "/generate", { ...body, prefix_id: prefix }, stop.signal).catch(() => undefined);
          }
        }),
      );
      await page.waitForTimeout(20_000);
      await shoot("live");
      stop.abort();
      await Promise.all(load);
    }
    await page.close();
  }
} finally {
  await browser.close();
  await server.stop({ delaySeconds: 0 });
  rmSync(folder, { recursive: true, force: true });
}
