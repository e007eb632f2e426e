/** The console in a real browser, on a real server with the demo: every page's main job, and who may see what. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium, type Page } from "playwright-core";
import t, { type Test } from "tap";
import { parseConfig } from "../../src/config.ts";
import { startServer } from "../../src/main.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { ADMIN_KEY, buildTestApp } from "../support/app.ts";
import { ROOT } from "../support/program.ts";
import { BROWSER, skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "chromium");
t.setTimeout(120_000);

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const dir = t.testdir({});
const config = parseConfig(
  ["--port", "0", "--threads", "1", "--prefixes", "prefixes", "--store", `lmdb:${join(dir, "store")}`].concat([
    "--cache-dir",
    join(dir, "cache"),
    "--drain-timeout",
    "5",
  ]),
  { PREFIXD_ADMIN_KEY: ADMIN_KEY },
);
if (config === "help") throw new Error("no configuration");
const server = await startServer(config, createLogger("silent"));
t.teardown(() => server.stop());
const browser = await chromium.launch({ executablePath: BROWSER, args: ["--no-sandbox"] });
t.teardown(() => browser.close());

interface Window {
  readonly url?: string;
  readonly width?: number;
  readonly scheme?: "light" | "dark";
}

/** A new window, and what goes wrong in it: errors, reports of the content security policy, requests to elsewhere. */
async function open(
  t: Test,
  { url = server.url, width = 1280, scheme = "light" }: Window = {},
): Promise<{ page: Page; wrong: string[]; asked: string[] }> {
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
    if (!request.url().startsWith(`${url}/`)) wrong.push(`asked ${request.url()}`);
  });
  page.on("console", (message) => {
    // The browser logs answers such as 401, which the pages show.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) wrong.push(message.text());
  });
  await page.goto(`${url}/console`);
  return { page, wrong, asked };
}

async function signedIn(t: Test, key = ADMIN_KEY, options: Window = {}) {
  const opened = await open(t, options);
  await opened.page.getByLabel("Your key").fill(key);
  await opened.page.keyboard.press("Enter");
  await opened.page.getByRole("heading", { level: 1, name: "One prompt" }).waitFor();
  return opened;
}

async function go(page: Page, name: string): Promise<void> {
  await page.getByRole("navigation").getByRole("link", { name }).click();
  await page.getByRole("heading", { level: 1, name }).waitFor();
}

const run = async (page: Page): Promise<void> => {
  await page.getByRole("button", { name: /^Run/ }).click();
  await page.locator(".slots .ended").nth(4).waitFor();
};

/** What axe finds, and whether the page is wider than its window. */
async function faults(page: Page): Promise<string[]> {
  const found = await page.evaluate<string[]>(
    `${AXE}; axe.run().then(({ violations }) => violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => id + ": " + html)))`,
  );
  const wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth");
  return Number(wide) > 0 ? [...found, `${String(wide)} pixels too wide`] : found;
}

const admin = async (method: string, path: string, body?: object): Promise<Record<string, string>> => {
  const response = await fetch(server.url + path, {
    method,
    headers: { authorization: `Bearer ${ADMIN_KEY}`, "content-type": "application/json" },
    body: body === undefined ? null : JSON.stringify(body),
  });
  return (await response.json()) as Record<string, string>;
};

t.test("sign in, and compare one prompt under four prefixes and none", async (t) => {
  const { page, wrong } = await open(t);
  t.same(await faults(page), [], "the sign-in page");
  await page.getByLabel("Your key").fill("pfx_0000");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("The server does not know this key.").waitFor();
  await page.getByLabel("Your key").fill(ADMIN_KEY);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("your 5 rows will run here").waitFor();
  await run(page);
  const answers = await page
    .locator(".column")
    .evaluateAll((columns) =>
      (columns as unknown as { ariaLabel: string; querySelector(s: string): { textContent: string } }[]).map(
        (column) => `${column.ariaLabel}: ${column.querySelector(".answer").textContent}`,
      ),
    );
  t.same(answers, [
    "base: i want to book a flight to london on August 14th, 2024end",
    "datenorm: 2024-08-14end",
    "intent: book flightend",
    "truecase: I want to book a flight to London on August 14th, 2024.end",
    "datelong: 14 August 2024end",
  ]);
  t.match(await page.locator(".column .times").first().innerText(), /queue\s+[\d.]+ ms\s+prefill\s+[\d.]+ ms/);
  t.ok((await page.locator(".token.p50, .token.p20, .token.p0").count()) > 0, "tinted by probability");
  t.equal(await page.locator(".lane .tick").count(), await page.locator(".token").count(), "a mark for each token");
  t.match(await page.locator("p.sr").innerText(), /intent: +book flight/, "what a screen reader hears, at the end");

  await page.locator("#prompt").focus();
  const toAnswer = async (): Promise<void> => {
    for (let i = 0; i < 30; i++) {
      await page.keyboard.press("Tab");
      if ((await page.evaluate("document.activeElement.dataset.token")) !== undefined) return;
    }
    throw new Error("Tab reaches no answer");
  };
  await toAnswer();
  await page.keyboard.press("ArrowRight");
  const tip = page.getByRole("tooltip");
  t.match(await tip.innerText(), /" want"/);
  t.equal(await tip.getByRole("listitem").count(), 5, "the five likeliest");
  await page.keyboard.press("Escape");
  t.notOk(await tip.isVisible());
  await page.keyboard.press("End");
  t.match(await tip.innerText(), /end of text/);
  t.same(await faults(page), []);

  await page.getByRole("button", { name: "Copy as curl" }).click();
  const code = await page.locator("pre").innerText();
  t.match(code, /curl -N '.*\/generate'/);
  t.match(code, /"prefix_id":"datenorm"/);
  t.ok(code.includes("$PREFIXD_KEY") && !code.includes(ADMIN_KEY), "without the key");
  await page.keyboard.press("Escape");
  t.equal(
    await page.evaluate("document.activeElement.textContent"),
    "Copy as curl",
    "the focus goes back to the button",
  );
  const stored = await page.evaluate(
    "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])",
  );
  t.notOk(String(stored).includes(ADMIN_KEY), "the key is stored nowhere");
  await page.reload();
  await page.getByLabel("Your key").waitFor();
  t.same(wrong, []);
});

t.test("settings, stop, an error in one column, and a key that expires", async (t) => {
  const { page, wrong } = await signedIn(t);
  await page.getByRole("button", { name: "Settings" }).click();
  const settings = page.getByRole("dialog");
  await settings.getByText("Draw").click();
  await settings.getByLabel("Seed").fill("7");
  await settings.getByText("Regex").click();
  await settings.getByLabel("Regular expression").fill("[a-c]{200}");
  await settings.getByLabel("New tokens").fill("300");
  t.same(await faults(page), []);
  await settings.getByRole("button", { name: "Done" }).click();
  await page.getByRole("button", { name: "Remove datelong" }).click();
  let bodies = 0;
  await page.route("**/generate", async (route) => {
    const body = route.request().postDataJSON() as Record<string, unknown>;
    t.match(body, { do_sample: true, seed: 7, structured_outputs: { regex: "[a-c]{200}" }, max_new_tokens: 300 });
    bodies++;
    if (body["prefix_id"] !== "intent") return route.continue();
    return route.fulfill({
      status: 429,
      headers: { "retry-after": "1" },
      json: { title: "The queue is full", detail: "256 wait.", code: "queue_full", request_id: "r" },
    });
  });
  await page.keyboard.press("Control+Enter");
  const failed = page.locator(".failure");
  await failed.getByText("The queue is full.").waitFor();
  await failed.getByRole("button", { name: "Try again" }).waitFor();
  t.equal(bodies, 4, "nothing is sent again by itself");
  await page.getByRole("button", { name: /^Run/ }).waitFor();
  t.match(await page.getByLabel("Tokens of truecase").innerText(), /^[abc]{200}/);
  await page.unroute("**/generate");
  await page.route("**/generate", () => {});
  await page.keyboard.press("Control+Enter");
  await page.getByText("4 waiting").waitFor();
  await page.keyboard.press("Control+Enter");
  await page.getByText("4 stopped").waitFor();
  await page.unroute("**/generate");
  t.same(await faults(page), []);

  await page.route("**/prefixes?*", (route) => route.fulfill({ status: 401, json: { code: "unauthorized" } }));
  await page.locator("#prompt").fill("what I was writing");
  await go(page, "Prefixes");
  await page.getByRole("dialog", { name: "Sign in again" }).waitFor();
  await page.unroute("**/prefixes?*");
  await page.getByLabel("Your key").fill(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("navigation").getByRole("link", { name: "Compare" }).click();
  t.equal(await page.locator("#prompt").inputValue(), "what I was writing", "the prompt is kept");
  t.same(wrong, []);
});

t.test("live: who runs with which prefix", async (t) => {
  const { page, wrong } = await signedIn(t, ADMIN_KEY, { scheme: "dark" });
  await go(page, "Live");
  await page.getByText("0 of 32 slots").waitFor();
  const stop = new AbortController();
  const asked = fetch(`${server.url}/generate`, {
    method: "POST",
    signal: stop.signal,
    headers: { authorization: `Bearer ${ADMIN_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({
      prompts: Array(40).fill("a"),
      prefix_id: "intent",
      max_new_tokens: 500,
      ignore_eos: true,
    }),
  }).catch(() => undefined);
  await page.getByText("32 of 32 slots").waitFor();
  t.match(await page.locator(".cell").first().innerText(), /admin\s+[\d.]+ s\s+intent\s+\d+ of 500/);
  await page.getByText("8 of 256 wait").waitFor();
  await page
    .locator(".gauge", { hasText: "Step time" })
    .getByText(/^[\d.]+ ms$/)
    .waitFor();
  await page.getByRole("button", { name: "admin" }).last().focus();
  t.equal(await page.locator(".cell.lit").count(), 32, "the user's rows");
  t.same(await faults(page), []);
  await page.getByRole("button", { name: "Pause view" }).click();
  await page.getByText("The view stands still").waitFor();
  stop.abort();
  await asked;
  await page.waitForResponse(() => true, { timeout: 1 }).catch(() => undefined);
  t.ok(await page.getByText("32 of 32 slots").isVisible(), "it does stand still");
  await page.getByRole("button", { name: "Go on" }).click();
  await page.getByText("0 of 32 slots").waitFor();
  await page.route("**/admin/live", (route) => route.abort());
  await page.getByRole("navigation").getByRole("link", { name: "Compare" }).click();
  await go(page, "Live");
  await page.getByText("No news since").waitFor();
  t.same(wrong, []);
});

t.test("prefixes: drop, share, delete", async (t) => {
  await admin("POST", "/admin/users", { id: "bob" });
  const { page, wrong } = await signedIn(t);
  await go(page, "Prefixes");
  await page.getByRole("heading", { name: "6 prefixes" }).waitFor();
  t.same(await faults(page), []);
  const files = ["adapter_config.json", "adapter_model.safetensors"].map((name) => ({
    name,
    base64: readFileSync(join(ROOT, "prefixes/intent", name)).toString("base64"),
  }));
  const drop = (some: typeof files): Promise<unknown> =>
    page.evaluate(
      `const data = new DataTransfer();
       for (const { name, base64 } of ${JSON.stringify(some)})
         data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
       document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));`,
    );
  await drop(files.slice(0, 1));
  await page.getByText("is missing").waitFor();
  t.ok(await page.getByRole("button", { name: "Store" }).isDisabled());
  await page.keyboard.press("Escape");
  await drop(files);
  await page.getByLabel("Name", { exact: true }).fill("not a name");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("invalid_prefix_id").waitFor();
  t.same(await faults(page), []);
  await page.getByLabel("Name", { exact: true }).fill("dropped");
  await page.keyboard.press("Enter");
  await page.getByText("dropped is stored").waitFor();
  await page.getByRole("heading", { name: "7 prefixes" }).waitFor();

  await page.getByLabel("User to share with").fill("nobody");
  await page.keyboard.press("Enter");
  await page.getByText("There is no user").waitFor();
  await page.getByLabel("User to share with").fill("bob");
  await page.keyboard.press("Enter");
  await page.getByLabel("What bob may do").selectOption("read");
  await page.waitForResponse((response) => response.request().method() === "PATCH");
  t.same((await admin("GET", "/prefixes/dropped"))["readable_by"], ["bob"]);
  t.same(await faults(page), []);

  await page.keyboard.press("Escape");
  await page.locator("h1").click();
  await page.keyboard.press("/");
  await page.keyboard.type("dropp");
  t.equal(await page.locator("tbody tr").count(), 1);
  await page.getByRole("button", { name: "Delete…" }).click();
  const dialog = page.getByRole("dialog", { name: "Delete dropped?" });
  await dialog.getByText("bob can no longer use it.").waitFor();
  t.ok(await dialog.getByRole("button", { name: "Delete" }).isDisabled());
  await dialog.getByLabel("Type dropped to go on").fill("dropped");
  await dialog.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("heading", { name: "6 prefixes" }).waitFor();
  t.match(await admin("GET", "/prefixes/dropped"), { code: "prefix_not_found" });
  t.same(wrong, []);
});

t.test("users: a key, limits, removal with its receipt; and what a user sees", async (t) => {
  const { page, wrong } = await signedIn(t);
  await go(page, "Users");
  await page.getByRole("button", { name: "New user" }).click();
  await page.getByLabel("User id", { exact: true }).fill("ann");
  await page.keyboard.press("Enter");
  const detail = page.getByRole("complementary", { name: "ann" });
  await detail.getByRole("button", { name: "New key" }).click();
  const key = await page.locator("pre").innerText();
  t.same(await faults(page), []);
  await page.getByRole("button", { name: "I have stored it" }).click();
  await detail.getByText(`${key.slice(0, 20)}_…`).waitFor();
  await detail.getByLabel("Weight", { exact: true }).fill("2.5");
  await detail.getByLabel("Rows at once").fill("3");
  await detail.getByRole("button", { name: "Save" }).click();
  await page.getByRole("row", { name: /ann.*2\.5/ }).waitFor();
  t.match(await admin("GET", "/admin/users/ann"), { weight: 2.5, limits: { max_running: 3, max_queued: null } });
  t.same(await faults(page), []);

  await t.test("who is no admin sees no page of theirs", async (t) => {
    const hers = await signedIn(t, key.trim());
    const pages = await hers.page.getByRole("navigation").getByRole("link").allInnerTexts();
    t.same(pages, ["Compare", "Prefixes"]);
    await run(hers.page);
    t.match(await hers.page.getByLabel("Tokens of admin/intent").innerText(), /book flight/);
    for (const name of ["live", "users"]) {
      await hers.page.goto(`${server.url}/console/#${name}`);
      await hers.page.getByText("This page needs the admin key.").waitFor();
    }
    t.same(
      hers.asked.filter((url) => url.includes("/admin/")),
      [],
    );
    await go(hers.page, "Prefixes");
    await hers.page.getByRole("button", { name: "admin/intent" }).click();
    const shown = hers.page.getByRole("complementary");
    await shown.getByText("10 virtual tokens").waitFor();
    t.notOk(await shown.getByRole("button", { name: "Delete…" }).isVisible());
    t.same(hers.wrong, []);
  });

  await detail.getByRole("button", { name: "Remove…" }).click();
  await page.getByLabel("Type ann to go on").fill("ann");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  const receipt = page.getByRole("region", { name: "ann is removed" });
  await receipt.getByText("confirmed at").waitFor();
  t.match(await receipt.innerText(), /Keys\s+1/);
  t.same(await faults(page), []);
  t.match(await admin("GET", "/admin/users/ann"), { code: "user_not_found" });
  t.same(wrong, []);
});

t.test("dark and 320 pixels wide, every page", async (t) => {
  const { page, wrong } = await signedIn(t, ADMIN_KEY, { width: 320, scheme: "dark" });
  await run(page);
  t.same(await faults(page), [], "Compare");
  for (const name of ["Live", "Prefixes", "Users"]) {
    await go(page, name);
    await page.locator("header h2, .cells").first().waitFor();
    t.same(await faults(page), [], name);
  }
  t.same(wrong, []);
});

t.test("without keys it runs by itself, and there is no page for users", async (t) => {
  const app = await buildTestApp(t);
  await app.registry.register({ user: "local", name: "p" }, { kind: "hard", ids: Int32Array.of(1, 2) });
  const { page, wrong } = await open(t, { url: `http://127.0.0.1:${await app.listen()}` });
  // This server's model has 64 positions.
  await page.locator(".failure").nth(1).getByText("context_exceeded").waitFor();
  const pages = await page.getByRole("navigation").getByRole("link").allInnerTexts();
  t.same(pages, ["Compare", "Live", "Prefixes"], "there are no users");
  await page.getByRole("button", { name: "local" }).click();
  await page.getByRole("dialog", { name: "A server without keys" }).waitFor();
  t.same(wrong, []);
});

t.test("whatever ids and answers are, they are text", async (t) => {
  const { page, wrong } = await open(t);
  const hostile = `"><img src=x onerror=alert(1)><script>alert(2)</script>`;
  const digest = "0".repeat(64);
  await page.route("**/prefixes?*", (route) =>
    route.fulfill({
      json: {
        prefixes: [
          {
            id: hostile,
            kind: hostile,
            digest,
            virtual_tokens: 1,
            bytes: 1,
            warnings: [{ detail: hostile }],
            access: "use",
            visibility: "shared",
            updated_at: "2026-01-31T12:00:00.000Z",
            base_model_name_or_path: hostile,
          },
        ],
        next: null,
      },
    }),
  );
  const top = [{ id: 1, token: hostile, logprob: -1 }];
  const choice = { index: 0, text: hostile, token_ids: [1], logprobs: { token_logprobs: [-1], top_logprobs: [top] } };
  await page.route("**/generate", (route) =>
    route.fulfill({
      contentType: "text/event-stream",
      body: `data: ${JSON.stringify({ choices: [{ ...choice, finish_reason: "length" }] })}\n\ndata: [DONE]\n\n`,
    }),
  );
  await page.getByLabel("Your key").fill(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await page.getByText("your 2 rows").waitFor();
  await page.keyboard.press("Control+Enter");
  await page.locator(".slots .ended").nth(1).waitFor();
  t.equal(await page.locator(".token").first().textContent(), hostile);
  await page.locator(".token").first().hover();
  t.match(await page.getByRole("tooltip").innerText(), /onerror/);
  await go(page, "Prefixes");
  await page.getByRole("button", { name: hostile }).click();
  t.equal(await page.locator("main img, main script").count(), 0);
  t.same(wrong, []);
});
