/**
 * Makes docs/images/console-*.png: each page of the console on a server with the demo. Needs chromium and a build.
 *
 *     npm run build && npx tsx tools/console-screenshots.ts
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, type Page } from "playwright-core";
import { parseConfig } from "../src/config.ts";
import { openLmdbUserStore } from "../src/lmdb/user-store.ts";
import { startServer } from "../src/main.ts";
import { createLogger } from "../src/observability/logging.ts";
import { NO_LIMITS, type UsageRow } from "../src/users/types.ts";
import { BROWSER } from "../test/support/requirements.ts";

const ADMIN_KEY = "a-key-for-nobody-but-the-screenshots";
const IMAGES = new URL("../docs/images/", import.meta.url).pathname;
/** Users with their weights and the prefixes that they ask for, on Live so many at a time. */
const LOAD = [
  ["acme", 2, ["admin/intent", "admin/datenorm"], 14],
  ["globex", 1, ["admin/truecase", null], 18],
  ["hooli", 4, ["admin/sgd_nlg", "admin/e2e"], 9],
  ["initech", 1, ["admin/intent", null], 0],
] as const;
const SUSPENDED = "initech";
/** Jobs before the one that is shown: versions of its prefix, and a search. */
const JOBS = [
  ["dates", { n_steps: 100 }],
  ["dates", { n_steps: 300 }],
  [
    "words",
    { peft_type: "TRIGGERS", n_steps: 60, num_virtual_tokens: 10, num_candidates: 10, init_text: "write the date" },
  ],
] as const;

const folder = mkdtempSync(join(tmpdir(), "prefixd-screenshots-"));
await seeded(join(folder, "store"));
const config = parseConfig(
  [
    ...["--port", "0", "--prefixes", "prefixes", "--store", `lmdb:${join(folder, "store")}`, "--drain-timeout", "1"],
    ...["--training", "on", "--train-share", "0.5"],
  ],
  { PREFIXD_ADMIN_KEY: ADMIN_KEY },
);
if (config === "help") throw new Error("no configuration");
const server = await startServer(config, createLogger("error"));
const browser = await chromium.launch({ executablePath: BROWSER, args: ["--no-sandbox"] });
mkdirSync(IMAGES, { recursive: true });

async function send(
  key: string,
  path: string,
  body: object | null,
  { method = "POST", signal }: { method?: string; signal?: AbortSignal } = {},
): Promise<Record<string, string>> {
  const response = await fetch(server.url + path, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(body !== null && { "content-type": "application/json" }) },
    body: body === null ? null : JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
  return (response.status === 204 ? {} : await response.json()) as Record<string, string>;
}

/** Users of different sizes, and a month of usage that grows and rests at weekends. */
async function seeded(dir: string): Promise<void> {
  const users = await openLmdbUserStore({ dir });
  const now = Date.now();
  const rows: UsageRow[] = [];
  const use = (user: string, prefix: string | null, requests: number, ago: number): void => {
    const day = new Date(now - ago * 86_400_000).toISOString().slice(0, 10);
    const [promptTokens, completionTokens] = [18 * requests, 31 * requests];
    rows.push({
      ...{ user, prefix, day, requests, prefixTokens: 10 * requests, promptTokens, completionTokens },
      ...{ queueSeconds: requests / 50, runSeconds: requests / 4 },
    });
  };
  for (let ago = 1; ago < 31; ago++) {
    const weekend = [0, 6].includes(new Date(now - ago * 86_400_000).getUTCDay());
    const scale = (weekend ? 0.15 : 1) * (40 - ago) * (1 + ((ago * 7) % 5));
    for (const [id, weight, prefixes] of LOAD)
      prefixes.forEach((prefix, i) =>
        use(id, prefix?.slice("admin/".length) ?? null, Math.ceil((scale * weight) / (1 + 2 * i)), ago),
      );
    for (const [i, prefix] of ["dates", "intent", "datenorm", "truecase", "e2e"].entries())
      use("admin", prefix, Math.ceil(scale / (1 + i)), ago);
  }
  const at = new Date(now).toISOString();
  for (const [id, weight] of LOAD) {
    const limits = { ...NO_LIMITS, tokens_per_minute: weight * 600_000 };
    await users.createUser({ id, weight, limits, createdAt: at, updatedAt: at });
  }
  await users.addUsage(rows);
  await users.close();
}

/** A key of each. */
async function keysOfUsers(): Promise<Map<string, string>> {
  const keys = new Map<string, string>();
  for (const [id] of LOAD) keys.set(id, (await send(ADMIN_KEY, `/admin/users/${id}/keys`, {}))["key"]!);
  return keys;
}

async function forgetCheckpoints(): Promise<void> {
  const { prefixes } = (await send(ADMIN_KEY, "/prefixes?limit=1000", null, { method: "GET" })) as unknown as {
    prefixes: { id: string }[];
  };
  for (const { id } of prefixes)
    if (id.includes(".step-")) await send(ADMIN_KEY, `/prefixes/${id}`, null, { method: "DELETE" });
}

async function signedIn(scheme: "light" | "dark"): Promise<Page> {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: scheme });
  await page.goto(`${server.url}/console/`);
  await page.getByLabel("Your key").fill(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await page.getByText("your 5 rows will run here").waitFor();
  return page;
}

/** As high as what is on the page. */
async function shoot(page: Page, name: string): Promise<void> {
  const { width } = page.viewportSize()!;
  const height = await page.evaluate<number>(
    `scrollTo(0, 0); Math.ceil(Math.max(...[...document.querySelectorAll("main *")].map((one) => one.getBoundingClientRect().bottom))) + 24`,
  );
  await page.setViewportSize({ width, height });
  await page.screenshot({ path: join(IMAGES, `console-${name}.png`) });
  await page.setViewportSize({ width, height: 800 });
}
const go = (page: Page, name: string): Promise<void> =>
  page.getByRole("navigation").getByRole("link", { name }).click();

async function shootCompare(page: Page): Promise<void> {
  // Twice: the first answers come while functions are still being compiled.
  for (let i = 0; i < 2; i++) {
    await page.keyboard.press("Control+Enter");
    await page.getByText("5 ended").waitFor();
  }
  await page.locator(".c3").getByText("London").hover();
  await shoot(page, "compare");
}

/** While all users ask for more than there is room for. */
async function shootLive(page: Page, keys: ReadonlyMap<string, string>): Promise<void> {
  await go(page, "Live");
  const stop = new AbortController();
  const load = LOAD.flatMap(([id, , prefixes, count]) =>
    Array.from({ length: count }, async (_, i) => {
      for (let turn = i; !stop.signal.aborted; turn++) {
        const body = { prompt: "It was finished on\n=>", max_new_tokens: 40 + 13 * (turn % 9), ignore_eos: true };
        const prefix_id = prefixes[turn % 2];
        await send(keys.get(id)!, "/generate", { ...body, prefix_id }, { signal: stop.signal }).catch(() => undefined);
      }
    }),
  );
  // The lines of the last minute, from end to end.
  await sleep(62_000);
  await shoot(page, "live");
  stop.abort();
  await Promise.all(load);
}

/** A real job on the sample of dates, to its end, after those of JOBS; then one of them, in the dark. */
async function shootTrain(page: Page): Promise<void> {
  await go(page, "Train");
  await page.getByLabel("A file of examples").setInputFiles("examples/dates.jsonl");
  const file = page.locator("#examples option:checked[value^=file]");
  await file.waitFor({ state: "attached" });
  const training_file = await file.getAttribute("value");
  for (const [prefix_id, hyperparameters] of JOBS)
    await send(ADMIN_KEY, "/v1/fine_tuning/jobs", { model: "demo", training_file, prefix_id, hyperparameters });
  await page.getByRole("button", { name: "Start" }).click();
  await page.getByRole("region", { name: "dates" }).getByText("succeeded").waitFor({ timeout: 1_200_000 });
  await page.locator("h1").click();
  await shoot(page, "train");
  await page.emulateMedia({ colorScheme: "dark" });
  await page.getByRole("button", { name: "words" }).click();
  await page.getByRole("region", { name: "Triggers found" }).waitFor();
  await page.locator("h1").click();
  await shoot(page, "triggers");
  await page.emulateMedia({ colorScheme: "light" });
}

/** With one row of the list chosen. */
async function shootChosen(page: Page, name: string, row: string, shown: string): Promise<void> {
  await go(page, name);
  await page.getByRole("button", { name: row, exact: true }).click();
  await page.getByRole("complementary").getByText(shown).waitFor();
  await page.locator("h1").click();
  await shoot(page, name.toLowerCase());
}

try {
  const keys = await keysOfUsers();
  await send(ADMIN_KEY, `/admin/users/${SUSPENDED}`, { suspended: true }, { method: "PATCH" });
  const dark = await signedIn("dark");
  await shootLive(dark, keys);
  await dark.close();
  const page = await signedIn("light");
  await shootCompare(page);
  await shootChosen(page, "Users", SUSPENDED, "Tokens a day");
  await shootTrain(page);
  const sharing = { shared_with: ["acme", "hooli"], readable_by: ["globex"] };
  await send(ADMIN_KEY, "/prefixes/dates", sharing, { method: "PATCH" });
  await forgetCheckpoints();
  await shootChosen(page, "Prefixes", "dates", "Earlier versions");
} finally {
  await browser.close();
  await server.stop({ delaySeconds: 0 });
  rmSync(folder, { recursive: true, force: true });
}
