/** Answers that come late, twice or in another order, and people who are faster than they are. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { ADMIN_KEY } from "../support/app.ts";
import { drop, go, startConsole } from "../support/console.ts";
import { clickAgain, counted, drawn, hold, moment } from "../support/late-answers.ts";
import { ROOT } from "../support/program.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "chromium");
t.setTimeout(180_000);
const server = await startConsole(t, "--training", "on", "--train-threads", "1", "--train-nice", "1");

const intent = ["adapter_config.json", "adapter_model.safetensors"].map((name) => ({
  name,
  content: readFileSync(join(ROOT, "prefixes/intent", name)),
}));

t.test("compare: what is pressed counts, not what is drawn", async (t) => {
  const { page, wrong } = await server.open(t);
  const list = await hold(page, "**/prefixes?*");
  await page.getByLabel("Your key").fill(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await list.answered;
  await page.getByLabel("Example prompts").selectOption("2");
  await page.locator("#prompt").fill("typed by then");
  await list.release();
  await page.getByText("your 5 rows will run here").waitFor();
  t.equal(await page.locator("#prompt").inputValue(), "typed by then", "the list of prefixes leaves the prompt alone");
  t.equal(await page.getByLabel("Prefix of column 2").inputValue(), "sgd_nlg", "and the columns are the example's");

  // Long frames, as on a slow machine.
  await page.evaluate(
    "{ const real = requestAnimationFrame; window.requestAnimationFrame = (draw) => setTimeout(() => real(draw), 400); }",
  );
  const asked = counted(page, "POST", "/generate");
  await page.route("**/generate", () => {});
  const press = `dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true }))`;
  await page.evaluate(`${press}; ${press}`);
  await page.getByText("5 stopped").waitFor();
  await page.evaluate(`dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true, repeat: true }))`);
  await drawn(page);
  t.ok(await page.getByText("5 stopped").isVisible(), "a key that is held down does nothing more");
  t.ok(asked() <= 5, "asked once at most");

  await page.unroute("**/generate");
  let wait = 0;
  await page.route("**/generate", (route) =>
    route.fulfill({
      status: 429,
      headers: { "retry-after": String(wait) },
      json: { title: "Full", code: "queue_full" },
    }),
  );
  await page.keyboard.press("Control+Enter");
  const again = page.locator(".failure").first().getByRole("button", { name: "Try again" });
  await again.waitFor();
  wait = 60;
  await again.click();
  await page.getByText(/^The server asks for \d+ s\.$/).waitFor();
  t.same(wrong, []);
});

t.test("a dialog is closed by what is meant to close it", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  await page.getByRole("button", { name: "Settings" }).click();
  const settings = page.getByRole("dialog");
  const field = (await settings.getByLabel("New tokens").boundingBox())!;
  await page.mouse.move(field.x + 20, field.y + 10);
  await page.mouse.down();
  await page.mouse.move(100, field.y + 10);
  await page.mouse.up();
  await drawn(page);
  t.ok(await settings.isVisible(), "a text that is selected to beyond its edge");
  await page.mouse.click(100, 300);
  await settings.waitFor({ state: "detached" });
  const opens = (await page.getByRole("button", { name: "Settings" }).boundingBox())!;
  await page.mouse.click(opens.x + 5, opens.y + 5);
  await settings.waitFor();
  await clickAgain(page);
  await drawn(page);
  t.ok(await settings.isVisible(), "the second half of the double click that opened it");
  await page.keyboard.press("Escape");

  await page.getByRole("button", { name: "Copy as code" }).click();
  const copy = settings.locator(".dialog-foot button");
  await copy.click();
  await settings.getByRole("button", { name: /^(Copied|Press Ctrl C)$/ }).waitFor();
  await settings.getByText("Python").click();
  await settings.getByRole("button", { name: "Copy", exact: true }).waitFor();
  t.same(wrong, []);
});

t.test("a key that expires while several requests run is asked for once, and they go on", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  await page.getByLabel("Prefix of column 2").waitFor();
  const late = moment();
  const refused = new Set<string>();
  const refuse = (url: string, when = Promise.resolve()): Promise<unknown> =>
    page.route(url, async (route) => {
      if (refused.has(url)) return route.fallback();
      refused.add(url);
      await when;
      await route.fulfill({ status: 401, json: { code: "unauthorized" } });
    });
  await refuse("**/prefixes?*");
  await refuse("**/usage?*", late.promise);
  await go(page, "Prefixes");
  const dialog = page.getByRole("dialog", { name: "Sign in again" });
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  await drawn(page);
  t.ok(await dialog.isVisible(), "Esc does not close it");
  await server.admin("POST", "/admin/users", { id: "zoe" });
  await dialog.getByLabel("Your key").fill(ADMIN_KEY);
  await page.keyboard.press("Enter");
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("heading", { name: /^\d+ prefixes$/ }).waitFor();
  // Nobody's any more, if another user signs in.
  await refuse("**/admin/users?*");
  await page.getByRole("navigation").getByRole("link", { name: "Users" }).click();
  await dialog.waitFor();
  const hers = (await server.admin("POST", "/admin/users/zoe/keys", {}))["key"]!;
  await dialog.getByLabel("Your key").fill(hers);
  await page.keyboard.press("Enter");
  await page.getByText("This page needs the admin key.").waitFor();
  late.resolve();
  await drawn(page);
  t.equal(await page.getByRole("dialog").count(), 0, "a late refusal of the old key does not ask again");
  t.same(wrong, []);
});

t.test("prefixes: old lists, two changes of sharing, a dialog whose request runs", async (t) => {
  for (const id of ["ann", "ben", "cy"]) await server.admin("POST", "/admin/users", { id });
  const { page, wrong } = await server.signedIn(t);
  await page.getByLabel("Prefix of column 2").waitFor();
  const old = await hold(page, "**/prefixes?*");
  await go(page, "Prefixes");
  await old.answered;
  await drop(page, intent);
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name", { exact: true }).fill("late");
  await drop(page, [{ name: "other.txt", content: Buffer.from("x") }]);
  await drawn(page);
  t.equal(await dialog.getByText("other.txt").count(), 0, "what is dropped on the dialog goes nowhere");
  const puts = counted(page, "PUT", "/prefixes/late");
  const put = await hold(page, "**/prefixes/late", "PUT");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  await put.answered;
  for (const key of ["Escape", "Escape"]) await page.keyboard.press(key);
  await drawn(page);
  t.ok(await dialog.isVisible(), "stays until it is stored");
  await put.release();
  await page.getByText("late is stored").waitFor();
  t.equal(puts(), 1);
  const row = page.getByRole("row", { name: /late/ });
  await row.waitFor();
  await old.release();
  t.ok(await row.isVisible(), "an old list does not take the place of a newer one");

  await server.admin("PATCH", "/prefixes/late", { shared_with: ["ann", "ben"] });
  await go(page, "Train");
  await go(page, "Prefixes");
  await page.getByRole("button", { name: "late" }).click();
  const first = await hold(page, "**/prefixes/late", "PATCH");
  await page.getByRole("button", { name: "Stop sharing with ann" }).click();
  await first.answered;
  await page.getByRole("button", { name: "Stop sharing with ben" }).click();
  await page.getByLabel("User to share with").fill("ben");
  await page.getByLabel("User to share with").fill("cy");
  await page.keyboard.press("Enter");
  await page.getByLabel("User to share with").fill("be");
  await first.release();
  const cy = page.getByRole("button", { name: "Stop sharing with cy" });
  await cy.waitFor();
  t.same((await server.admin("GET", "/prefixes/late"))["shared_with"], ["cy"], "both are withdrawn");
  t.equal(await page.getByLabel("User to share with").inputValue(), "be", "what is being typed is kept");
  await cy.focus();
  await page.keyboard.press("Enter");
  await cy.waitFor({ state: "detached" });
  await page.locator("[aria-label=Sharing]:focus").waitFor();

  await page.getByRole("button", { name: "Delete…" }).click();
  await dialog.getByLabel("Type late to go on").fill("late");
  const deletes = counted(page, "DELETE", "/prefixes/late");
  const deleted = await hold(page, "**/prefixes/late", "DELETE");
  await dialog.getByRole("button", { name: "Delete" }).dblclick();
  await deleted.answered;
  for (const key of ["Escape", "Escape"]) await page.keyboard.press(key);
  await drawn(page);
  t.ok(await dialog.isVisible(), "stays until it is deleted");
  await deleted.release();
  await row.waitFor({ state: "detached" });
  t.equal(await page.getByText("late is stored").count(), 0, "it is no longer");
  await page.locator("#list-title:focus").waitFor();
  t.equal(deletes(), 1);
  t.same(wrong, []);
});

t.test("users: double clicks, and what is typed while something is saved", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  await go(page, "Users");
  await page.getByRole("button", { name: "New user" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("User id").fill("dan");
  const creations = counted(page, "POST", "/admin/users");
  const creation = await hold(page, "**/admin/users", "POST");
  await page.keyboard.press("Enter");
  await creation.answered;
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  await drawn(page);
  t.ok(await dialog.isVisible());
  await creation.release();
  const detail = page.getByRole("complementary", { name: "dan" });
  await detail.waitFor();
  t.equal(creations(), 1, "one user");

  const keys = counted(page, "POST", "/admin/users/dan/keys");
  await detail.getByRole("button", { name: "New key" }).dblclick();
  await dialog.locator("pre").waitFor();
  await drawn(page);
  t.ok(await dialog.locator("pre").isVisible(), "a key that nobody shows again stays on the page");
  t.equal(keys(), 1, "one key");
  await page.getByRole("button", { name: "I have stored it" }).click();
  await server.admin("POST", "/admin/users/dan/keys", {});
  await go(page, "Live");
  await go(page, "Users");
  await page.getByRole("button", { name: "dan" }).click();
  await detail.getByRole("listitem").nth(1).waitFor();
  await detail
    .getByRole("button", { name: /^Delete key/ })
    .first()
    .hover();
  await page.mouse.down();
  await page.mouse.up();
  await detail.getByRole("listitem").nth(1).waitFor({ state: "detached" });
  await clickAgain(page);
  await drawn(page);
  t.equal((await server.admin("GET", "/admin/users/dan"))["keys"]?.length, 1, "the key that came into its place stays");

  await detail.getByRole("button", { name: /^Delete key/ }).focus();
  await page.keyboard.press("Enter");
  await page.locator("#keys-title:focus").waitFor();

  const saved = await hold(page, "**/admin/users/dan", "PATCH");
  const patches = counted(page, "PATCH", "/admin/users/dan");
  await server.admin("PATCH", "/admin/users/dan", { limits: { max_prefixes: 7 } });
  await detail.getByLabel("Weight", { exact: true }).fill("3");
  await page.keyboard.press("Enter");
  await saved.answered;
  await page.keyboard.press("Enter");
  await detail.getByLabel("Rows at once").fill("5");
  const old = await hold(page, "**/admin/users/dan");
  await saved.release();
  await old.answered;
  t.equal(patches(), 1);
  await page.getByRole("row", { name: /dan/ }).waitFor();
  await detail.getByRole("button", { name: "Save" }).waitFor();
  t.equal(await detail.getByLabel("Rows at once").inputValue(), "5", "what was typed since is kept");
  await old.release();
  t.equal(await detail.getByLabel("Weight", { exact: true }).inputValue(), "3");
  t.match(
    await server.admin("GET", "/admin/users/dan"),
    { weight: 3, limits: { max_running: null, max_prefixes: 7 } },
    "what was not typed is not written",
  );
  await Promise.all([
    page.waitForResponse((response) => response.request().method() === "PATCH"),
    detail.getByRole("button", { name: "Save" }).click(),
  ]);
  t.match(await server.admin("GET", "/admin/users/dan"), { weight: 3, limits: { max_running: 5 } });
  t.same(wrong, []);
});

t.test("live: a view that stands still does, whatever is pointed at", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  const stop = server.busy(t);
  await go(page, "Live");
  await page.getByText("32 of 32 slots").waitFor();
  await page.locator(".gauge", { hasText: "Tokens a second" }).getByText(/[1-9]/).waitFor();
  await page.getByRole("button", { name: "Pause view" }).click();
  await page.getByText("The view stands still").waitFor();
  const gauges = (): Promise<string> => page.locator(".gauges").innerText();
  const before = await gauges();
  await stop();
  // The rate is that of the last second.
  await page.waitForTimeout(2500);
  await page.getByRole("button", { name: "admin" }).last().focus();
  await page.locator(".cell.lit").first().waitFor();
  t.equal(await gauges(), before);
  t.same(wrong, []);
});

const LINES = Array.from({ length: 240 }, (_, i) => JSON.stringify({ prompt: `a ${i}\n=>`, completion: ` ${i} b` }));
const fileOf = (name: string) => ({ name, content: Buffer.from(LINES.join("\n")) });

t.test("train: a form that is filled while a file is on its way; one job, which stays", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  await go(page, "Train");
  const name = page.getByLabel("Name of the prefix");
  const chosen = page.locator("#examples option:checked");
  const upload = await hold(page, "**/v1/files", "POST");
  await drop(page, [fileOf("first.jsonl")]);
  await upload.answered;
  await name.fill("mine");
  await drop(page, [fileOf("second.jsonl")]);
  await chosen.getByText("second.jsonl").waitFor({ state: "attached" });
  await upload.release();
  await page.getByText("is on its way").waitFor({ state: "detached" });
  t.match(await chosen.innerText(), "second.jsonl", "the one that was dropped last");
  t.equal(await name.inputValue(), "mine", "the name that was typed");

  await page.getByText("steps by the number of lines").click();
  await page.getByLabel("Steps", { exact: true }).fill("100000");
  const list = await hold(page, "**/v1/fine_tuning/jobs?*");
  await list.answered;
  const created = await hold(page, "**/v1/fine_tuning/jobs", "POST");
  const creations = counted(page, "POST", "/v1/fine_tuning/jobs");
  await page.getByRole("button", { name: "Start" }).dblclick();
  await created.answered;
  await name.fill("next");
  await created.release();
  const job = page.getByRole("region", { name: "mine" });
  await job.waitFor();
  await list.release();
  t.ok(await job.isVisible(), "an older list does not know it, and does not count");
  t.equal(await name.inputValue(), "next", "what was begun of the next one");
  t.equal(creations(), 1, "one job");

  const id = (await job.locator("dd").first().innerText()).trim();
  const cancels = counted(page, "POST", `/v1/fine_tuning/jobs/${id}/cancel`);
  await job.getByRole("button", { name: "Cancel" }).dblclick();
  await job.getByText("cancelled").waitFor();
  await page.locator("#job-title:focus").waitFor();
  await clickAgain(page);
  await drawn(page);
  t.equal(cancels(), 1);
  t.equal(await job.getByRole("alert").count(), 0, "and no error");
  t.equal(await name.inputValue(), "next", "nor are its settings wanted again");

  const deletion = await hold(page, "**/v1/files/*", "DELETE");
  await page.getByLabel("Examples", { exact: true }).selectOption({ index: 1 });
  await page.getByRole("button", { name: "Delete file" }).click();
  await deletion.answered;
  await page.getByLabel("Examples", { exact: true }).selectOption({ index: 2 });
  const kept = await chosen.innerText();
  await deletion.release();
  t.equal(await chosen.innerText(), kept, "the deletion of one file leaves the choice of another");
  t.same(wrong, []);
});

t.test("train: who has gone on to another page is not called back", async (t) => {
  const { page, wrong } = await server.signedIn(t);
  await page.route("**/v1/fine_tuning/jobs?*", async (route) => {
    const answer = await route.fetch();
    const list = (await answer.json()) as { data: { status: string }[] };
    for (const one of list.data) one.status = "succeeded";
    await route.fulfill({ response: answer, json: list });
  });
  await go(page, "Train");
  await page.getByRole("button", { name: "mine" }).click();
  const first = await hold(page, "**/v1/files/*/content");
  await page.getByRole("button", { name: "Try it" }).click();
  await first.answered;
  await go(page, "Prefixes");
  await first.release();
  t.match(page.url(), /#prefixes$/);
  await page.unrouteAll({ behavior: "ignoreErrors" });
  t.same(wrong, []);
});
