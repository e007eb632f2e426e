/** Live, Prefixes and Users: each page's main job, and who may see what. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { ADMIN_KEY } from "../support/app.ts";
import { drop, faults, go, run, startConsole } from "../support/console.ts";
import { ROOT } from "../support/program.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "chromium");
t.setTimeout(120_000);
const server = await startConsole(t);

t.test("live: who runs with which prefix", async (t) => {
  const { page, wrong } = await server.signedIn(t, ADMIN_KEY, { scheme: "dark" });
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

/** Usage is written a moment after the answer. */
async function written(prefix: string, path = "/usage"): Promise<void> {
  while (!JSON.stringify(await server.admin("GET", path)).includes(`"prefix":"${prefix}"`))
    await new Promise((resolve) => setTimeout(resolve, 50));
}

t.test("prefixes: drop, share, delete", async (t) => {
  await server.admin("POST", "/admin/users", { id: "bob" });
  const { page, wrong } = await server.signedIn(t);
  await go(page, "Prefixes");
  await page.getByRole("heading", { name: "6 prefixes" }).waitFor();
  t.same(await faults(page), []);
  const files = ["adapter_config.json", "adapter_model.safetensors"].map((name) => ({
    name,
    content: readFileSync(join(ROOT, "prefixes/intent", name)),
  }));
  await drop(page, files.slice(0, 1));
  await page.getByText("is missing").waitFor();
  t.ok(await page.getByRole("button", { name: "Store" }).isDisabled());
  await page.keyboard.press("Escape");
  await drop(page, files);
  await page.getByLabel("Name", { exact: true }).fill("not a name");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("invalid_prefix_id").waitFor();
  t.same(await faults(page), []);
  await page.getByLabel("Name", { exact: true }).fill("dropped");
  await page.keyboard.press("Enter");
  await page.getByText("dropped is stored").waitFor();
  await page.getByRole("heading", { name: "7 prefixes" }).waitFor();

  const detail = page.getByRole("complementary", { name: "dropped" });
  await detail.getByText("in the store").waitFor();
  const downloading = page.waitForEvent("download");
  await detail.getByRole("button", { name: "Download adapter_model.safetensors" }).click();
  t.ok(readFileSync(await (await downloading).path()).equals(files[1]!.content), "the file as it was uploaded");

  await page.getByLabel("User to share with").fill("nobody");
  await page.keyboard.press("Enter");
  await page.getByText("There is no user").waitFor();
  await page.getByLabel("User to share with").fill("bob");
  await page.keyboard.press("Enter");
  await page.getByLabel("What bob may do").selectOption("read");
  await page.waitForResponse((response) => response.request().method() === "PATCH");
  t.same((await server.admin("GET", "/prefixes/dropped"))["readable_by"], ["bob"]);
  await detail.getByRole("link", { name: "Compare" }).click();
  await page.getByLabel("Prefix of column 5").waitFor();
  t.equal(await page.getByLabel("Prefix of column 5").inputValue(), "dropped", "in the last column's place");
  await page.keyboard.press("Control+Enter");
  await page.getByText("5 ended").waitFor();
  await written("dropped");
  await go(page, "Prefixes");
  const used = page.getByRole("row", { name: /dropped/ });
  await used.getByText("in memory").waitFor();
  await used.getByRole("cell", { name: "1", exact: true }).waitFor();
  await used.getByRole("button", { name: "dropped" }).click();
  await detail.getByRole("img", { name: /^Your requests a day: 1 request in 31 days/ }).waitFor();
  await detail.getByText("bob").waitFor();
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
  t.match(await server.admin("GET", "/prefixes/dropped"), { code: "prefix_not_found" });
  t.same(wrong, []);
});

t.test("users: a key, limits, removal with its receipt; and what a user sees", async (t) => {
  const { page, wrong } = await server.signedIn(t);
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
  t.match(await server.admin("GET", "/admin/users/ann"), { weight: 2.5, limits: { max_running: 3, max_queued: null } });
  t.same(await faults(page), []);

  await t.test("who is no admin sees no page of theirs", async (t) => {
    const hers = await server.signedIn(t, key.trim());
    const pages = await hers.page.getByRole("navigation").getByRole("link").allInnerTexts();
    t.same(pages, ["Compare", "Prefixes", "Train"]);
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

  await written("intent", "/admin/users/ann/usage");
  await go(page, "Prefixes");
  await go(page, "Users");
  await page.getByRole("button", { name: "ann" }).click();
  await detail.getByRole("img", { name: /^Tokens a day: [1-9]\d* tokens in 31 days, at most \d+ on \d{4}-/ }).waitFor();
  await detail.getByRole("row", { name: /^intent 1 [1-9]/ }).waitFor();
  t.same(await faults(page), []);
  await detail.getByRole("button", { name: "Remove…" }).click();
  await page.getByLabel("Type ann to go on").fill("ann");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  const receipt = page.getByRole("region", { name: "ann is removed" });
  await receipt.getByText("confirmed at").waitFor();
  t.match(await receipt.innerText(), /Keys\s+1[^]*Training\s+0 jobs, 0 files, 0 bytes/);
  t.same(await faults(page), []);
  t.match(await server.admin("GET", "/admin/users/ann"), { code: "user_not_found" });
  t.same(wrong, []);
});

t.test("where the server does not train, Train says how to switch it on", async (t) => {
  const { page, wrong, asked } = await server.signedIn(t);
  await go(page, "Train");
  await page.getByText("it must be started with --training on").waitFor();
  t.equal(await page.locator("form").count(), 0);
  t.same(await faults(page), []);
  t.equal(asked.filter((url) => url.includes("/v1/")).length, 1, "asked once");
  t.same(wrong, []);
});

t.test("dark and 320 pixels wide, every page", async (t) => {
  const { page, wrong } = await server.signedIn(t, ADMIN_KEY, { width: 320, scheme: "dark" });
  await run(page);
  t.same(await faults(page), [], "Compare");
  for (const name of ["Live", "Prefixes", "Train", "Users"]) {
    await go(page, name);
    await page.locator("header h2, .cells, main .note").first().waitFor();
    t.same(await faults(page), [], name);
  }
  t.same(wrong, []);
});
