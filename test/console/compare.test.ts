/** Compare: its main job, its settings, and what it shows of errors and of hostile texts. */
import t from "tap";
import { ADMIN_KEY, buildTestApp } from "../support/app.ts";
import { faults, go, run, startConsole } from "../support/console.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "chromium");
t.setTimeout(120_000);
const server = await startConsole(t);

t.test("sign in, and compare one prompt under four prefixes and none", async (t) => {
  const { page, wrong } = await server.open(t);
  await page.getByLabel("Your key").waitFor();
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

  await page.getByRole("button", { name: "Copy as code" }).click();
  const code = page.locator("pre");
  t.match(await code.innerText(), /curl -N '.*\/generate'[^]*"prefix_id":"datenorm"/);
  await page.getByText("Python").click();
  t.match(await code.innerText(), /OpenAI\(base_url=".*\/v1", api_key=os\.environ\["PREFIXD_KEY"\]\)/);
  await page.getByLabel("Column", { exact: true }).selectOption("base");
  t.match(await code.innerText(), /model="demo",\n    prompt=".*\\n=>",\n    max_tokens=64,\n    temperature=0,/);
  t.notOk((await code.innerText()).includes(ADMIN_KEY), "without the key");
  t.same(await faults(page), []);
  await page.keyboard.press("Escape");
  t.equal(
    await page.evaluate("document.activeElement.textContent"),
    "Copy as code",
    "the focus goes back to the button",
  );

  await t.test("a replay shows what had come by a moment", async (t) => {
    const moment = page.getByLabel("Moment of the replay");
    const tokens = await page.locator(".token").count();
    await moment.focus();
    await page.keyboard.press("Home");
    await page.getByText("5 waiting").waitFor();
    t.equal(await page.locator(".token").count(), 0);
    t.equal(await page.locator(".tick.off").count(), tokens);
    await page.keyboard.press("End");
    await page.getByText("5 ended").waitFor();
    t.equal(await page.locator(".token").count(), tokens);
    await page.getByText("Real speed").click();
    await moment.focus();
    await page.keyboard.press("Home");
    await page.getByText("5 waiting").waitFor();
    await page.getByRole("button", { name: "Replay" }).click();
    await page.getByText("5 ended").waitFor();
    t.equal(await page.locator(".token").count(), tokens, "to the end");
    t.same(await faults(page), []);
  });
  const stored = await page.evaluate(
    "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])",
  );
  t.notOk(String(stored).includes(ADMIN_KEY), "the key is stored nowhere");
  await page.reload();
  await page.getByLabel("Your key").waitFor();
  t.same(wrong, []);
});

t.test("settings, stop, an error in one column, and a key that expires", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  await page.getByRole("button", { name: "Settings" }).click();
  const settings = page.getByRole("dialog");
  await settings.getByText("Draw").click();
  await settings.getByLabel("Seed").fill("7");
  await settings.getByText("Regex").click();
  await settings.getByLabel("Regular expression").fill("[a-c]{200}");
  await settings.getByLabel("New tokens").fill("300");
  t.same(await faults(page), []);
  // Two changes before the page draws again.
  await page.evaluate(`for (const [name, value] of [["Seed", "8"], ["Temperature", "0.7"]]) {
    const label = [...document.querySelectorAll("dialog label")].find(({ textContent }) => textContent === name);
    label.control.value = value;
    label.control.dispatchEvent(new InputEvent("input", { bubbles: true }));
  }`);
  await settings.getByRole("button", { name: "Done" }).click();
  await page.getByRole("button", { name: "Remove datelong" }).click();
  let bodies = 0;
  await page.route("**/generate", async (route) => {
    const body = route.request().postDataJSON() as Record<string, unknown>;
    t.match(body, {
      do_sample: true,
      seed: 8,
      temperature: 0.7,
      structured_outputs: { regex: "[a-c]{200}" },
      max_new_tokens: 300,
    });
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

  await page.getByRole("button", { name: "Settings" }).click();
  await settings.getByText("Beam search").click();
  await settings.getByLabel("Beams").fill("3");
  await settings.getByText("Free text").click();
  await settings.getByLabel("New tokens").fill("20");
  await page.keyboard.press("Escape");
  await page.getByText("3 beams · at most 20 new").waitFor();
  await page.keyboard.press("Control+Enter");
  await page.getByText("4 ended").waitFor();
  t.match(await page.getByLabel("Tokens of intent").innerText(), /^ ?book flight ?end$/);

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

t.test("without keys it runs by itself, and there is no page for users", async (t) => {
  const app = await buildTestApp(t);
  await app.registry.register({ user: "local", name: "p" }, { kind: "hard", ids: Int32Array.of(1, 2) });
  const { page, wrong } = await server.open(t, { url: `http://127.0.0.1:${await app.listen()}` });
  // This server's model has 64 positions.
  await page.locator(".failure").nth(1).getByText("context_exceeded").waitFor();
  const pages = await page.getByRole("navigation").getByRole("link").allInnerTexts();
  t.same(pages, ["Compare", "Live", "Prefixes", "Train"], "there are no users");
  await page.getByRole("button", { name: "local" }).click();
  await page.getByRole("dialog", { name: "A server without keys" }).waitFor();
  t.same(wrong, []);
});

t.test("whatever ids and answers are, they are text", async (t) => {
  const { page, wrong } = await server.open(t);
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
