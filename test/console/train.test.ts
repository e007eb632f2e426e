/** Train: from a file of examples to a prefix that Compare runs, by a real job, and what a user sees on the way. */
import type { Page } from "playwright-core";
import t from "tap";
import { ADMIN_KEY } from "../support/app.ts";
import { drop, faults, go, startConsole } from "../support/console.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "chromium");
t.setTimeout(180_000);
const server = await startConsole(t, "--training", "on", "--train-threads", "1", "--train-nice", "1");

const WORDS = ["red", "blue", "green", "white", "black", "small", "large", "old"];
const LINES = Array.from({ length: 240 }, (_, i) => [WORDS[i % 8]!, WORDS[(i * 3 + (i >> 3)) % 8]!]).map(([a, b]) =>
  JSON.stringify({ prompt: `${a} ${b}\n=>`, completion: ` ${b} ${a}` }),
);
const hostile = "<img src=x onerror=alert(1)>";
const fileOf = (name: string, lines: readonly string[]) => ({ name, content: Buffer.from(lines.join("\n")) });

/** Resolves when an uploaded file is the one to learn from. */
const isChosen = (page: Page): Promise<void> =>
  page.locator("#examples option:checked[value^=file]").waitFor({ state: "attached" });

t.test("drop a file, train, compare, with the keyboard where a form is filled", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  await go(page, "Train");
  await page.getByText("No jobs yet.").waitFor();
  t.same(await faults(page), []);
  t.ok(await page.getByRole("button", { name: "Start" }).isDisabled());
  await page.getByText("Choose a file of examples first.").waitFor();

  await drop(page, [fileOf("bad.jsonl", [...LINES, '{"prompt": "a"', '{"label": "b"}', '{"prompt": ""}'])]);
  const refused = page.getByRole("alert");
  await refused.getByText("bad.jsonl was not stored.").waitFor();
  t.match(await refused.getByRole("listitem").allInnerTexts(), [/^line 241: /, /^line 242: /, /^line 243: /]);
  t.same(await faults(page), []);

  await drop(page, [fileOf(`${hostile}.jsonl`, LINES)]);
  const name = page.getByLabel("Name of the prefix");
  const chosen = page.getByLabel("Examples", { exact: true });
  await isChosen(page);
  t.match(await chosen.locator("option:checked").innerText(), `${hostile}.jsonl, `);
  t.equal(await name.inputValue(), "img-src-x-onerror-alert-1-", "a name that a prefix may have");
  await name.fill("words");
  await page.locator("summary", { hasText: "steps by the number of lines, rate 0.1, 10 virtual tokens" }).focus();
  await page.keyboard.press("Enter");
  await fillIn(page, {
    Steps: "8",
    "Rows a step": "4",
    "Virtual tokens": "4",
    "Learning rate": "0.3",
    "Begin as the model reads this text": "in reverse",
  });
  t.same(await faults(page), []);
  await page.keyboard.press("Enter");
  const job = page.getByRole("region", { name: "words" });
  await job.getByText("succeeded").waitFor({ timeout: 120_000 });
  await job.getByRole("img", { name: /^Training loss from [\d.]+ at step 1 to [\d.]+ at step 8; held out / }).waitFor();
  const scores = job.getByRole("row");
  t.equal(await scores.count(), 9, "eight evaluations");
  t.equal(await job.getByRole("button", { name: /^Compare step/ }).count(), 3, "the last three are kept");
  t.equal(await job.getByText("best", { exact: true }).count(), 1);
  t.match(await job.innerText(), /PREFIX_TUNING, 8 steps of 4 rows, rate 0\.3, 4 virtual tokens, from “in reverse”/);
  t.match(await job.innerText(), `${hostile}.jsonl`);
  t.equal(await page.locator("main img").count(), 0, "names are text");
  t.same(await faults(page), []);

  await job.getByRole("button", { name: "Try it" }).click();
  await page.getByRole("heading", { level: 1, name: "One prompt" }).waitFor();
  t.equal(await page.locator("#prompt").inputValue(), "red red\n=>", "the first of its examples");
  t.equal(await page.getByLabel("Prefix of column 2").inputValue(), "words");
  await page.keyboard.press("Control+Enter");
  await page.getByText("2 ended").waitFor();
  t.match(await server.admin("GET", "/prefixes/words"), { kind: "PREFIX_TUNING", virtual_tokens: 4 });

  await go(page, "Train");
  await page.getByRole("button", { name: "words" }).click();
  await job.getByRole("button", { name: "Publish step 6" }).click();
  const asks = page.getByRole("dialog", { name: "Publish step 6 as words?" });
  await asks.getByText("words.step-6").waitFor();
  t.same(await faults(page), []);
  await asks.getByRole("button", { name: "Publish" }).click();
  await job.getByText("words is step 6 now.").waitFor();
  const [published, checkpoint] = await Promise.all(
    ["words", "words.step-6"].map((id) => server.admin("GET", `/prefixes/${id}`)),
  );
  t.equal(published!["digest"], checkpoint!["digest"]);
  await job
    .getByRole("button", { name: /^Compare step/ })
    .first()
    .click();
  await page.getByLabel("Prefix of column 3").waitFor();
  t.match(await page.getByLabel("Prefix of column 3").inputValue(), /^words\.step-\d$/, "beside the first");
  t.same(wrong, []);
});

t.test("triggers: searched for, shown as the text that they are, published", async (t) => {
  const { page, wrong } = await server.signedIn(t, undefined, { width: 320 });
  await go(page, "Train");
  await drop(page, [fileOf("typed.jsonl", LINES)]);
  await isChosen(page);
  await page.getByText("steps by the number of lines").click();
  await page.getByText("Triggers", { exact: true }).click();
  await page.getByText("100 steps, 20 candidates, 5 tokens").waitFor();
  t.equal(await page.getByLabel("Learning rate").count(), 0);
  await fillIn(page, {
    Steps: "8",
    Candidates: "2",
    "Rows a step": "4",
    Tokens: "3",
    "Begin with the tokens of this text": "in reverse",
  });
  t.same(await faults(page), []);
  await page.getByRole("button", { name: "Start" }).click();
  const job = page.getByRole("region", { name: "typed" });
  const found = job.getByRole("region", { name: "Triggers found" });
  await found.waitFor({ timeout: 120_000 });
  const prompt = (await server.admin("GET", "/prefixes/typed/adapter/prompt.json")) as unknown as {
    text: string;
    token_ids: number[];
  };
  t.equal(await found.locator("code").textContent(), prompt.text);
  t.match(await found.innerText(), prompt.token_ids.join(" "));
  t.match(await job.innerText(), /TRIGGERS, 8 steps of 4 rows, 2 candidates, 3 tokens, from “in reverse”/);
  t.same(await faults(page), []);

  await server.admin("DELETE", "/prefixes/typed");
  await job.getByRole("button", { name: "Publish step 8" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Publish" }).click();
  await job.getByText("typed is step 8 now.").waitFor();
  t.match(await server.admin("GET", "/prefixes/typed/adapter/prompt.json"), prompt);
  await job.getByRole("button", { name: "Same settings again" }).click();
  t.equal(await page.getByLabel("Candidates", { exact: true }).inputValue(), "2");

  await page.route("**/v1/fine_tuning/jobs?*", async (route) => {
    const answer = await route.fetch();
    const list = (await answer.json()) as { data: { triggers: object | null }[] };
    for (const one of list.data) if (one.triggers !== null) one.triggers = { text: hostile, token_ids: [1] };
    await route.fulfill({ response: answer, json: list });
  });
  await page.reload();
  await page.getByLabel("Your key").fill(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "typed" }).click();
  t.equal(await found.locator("code").textContent(), hostile);
  t.equal(await page.locator("main img").count(), 0, "what was found is text");
  await page.unrouteAll({ behavior: "ignoreErrors" });
  t.same(wrong, []);
});

t.test("cancel a job, try again with its settings, delete the file; in the dark, 320 pixels wide", async (t) => {
  const { page, wrong } = await server.signedIn(t, undefined, { width: 320, scheme: "dark" });
  await go(page, "Train");
  await drop(page, [fileOf("long.jsonl", LINES)]);
  await isChosen(page);
  await page.getByText("steps by the number of lines").click();
  await page.getByText("Through a network").click();
  t.equal(await page.getByLabel("Learning rate", { exact: true }).inputValue(), "0.003", "the default of the kind");
  await page.getByLabel("Steps", { exact: true }).fill("100000");
  await page.getByRole("button", { name: "Start" }).click();
  const job = page.getByRole("region", { name: "long" });
  await job.getByRole("button", { name: "Cancel" }).click();
  await job.getByText("cancelled").waitFor();
  t.same(await faults(page), []);
  t.match(await server.admin("GET", "/prefixes/long"), { code: "prefix_not_found" });
  await job.getByRole("button", { name: "Same settings again" }).click();
  t.equal(await page.getByLabel("Steps", { exact: true }).inputValue(), "100000");
  t.equal(await page.getByLabel("Name of the prefix").inputValue(), "long");
  await page.getByRole("button", { name: "Delete file" }).click();
  await page.getByText("Choose a file of examples first.").waitFor();
  t.equal(await page.getByLabel("Examples", { exact: true }).locator("option").count(), 3, "the other ones are left");
  t.same(wrong, []);
});

/** Text fields, by their labels. */
async function fillIn(page: Page, fields: Readonly<Record<string, string>>): Promise<void> {
  for (const [label, value] of Object.entries(fields)) await page.getByLabel(label, { exact: true }).fill(value);
}
