/** Live, Prefixes and Users: each page's main job, and who may see what. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Route } from "playwright-core";
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
  const stop = server.busy(t);
  await page.getByText("32 of 32 slots").waitFor();
  await page
    .locator(".cell", { hasText: /^admin[\d.]+ sintent\d+ of 500$/ })
    .first()
    .waitFor();
  await page.getByText(/^[1-9]\d* of 256 wait$/).waitFor();
  await page
    .locator(".gauge", { hasText: "Step time" })
    .getByText(/^[\d.]+ ms$/)
    .waitFor();
  await page.getByRole("button", { name: "admin" }).last().focus();
  await page.locator(".cell.lit").nth(31).waitFor();
  t.same(await faults(page), []);
  await page.getByRole("button", { name: "Pause view" }).click();
  await page.getByText("The view stands still").waitFor();
  const shown = await page.locator(".cells").innerText();
  await stop();
  // Three events.
  await page.waitForTimeout(1000);
  t.equal(await page.locator(".cells").innerText(), shown, "it does stand still");
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
  await page.getByRole("row", { name: /dropped.*named users only/ }).waitFor();

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
  await page.getByLabel("What bob may do").waitFor();
  await Promise.all([
    page.waitForResponse((response) => response.request().method() === "PATCH"),
    page.getByLabel("What bob may do").selectOption("read"),
  ]);
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
  const lost = (route: Route): Promise<void> =>
    route.request().method() === "DELETE" ? route.abort() : route.continue();
  await page.route("**/prefixes/dropped", lost);
  await dialog.getByRole("button", { name: "Delete" }).click();
  await dialog.getByRole("alert").getByText("It was not deleted.").waitFor();
  t.same(await faults(page), []);
  await page.unroute("**/prefixes/dropped", lost);
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

/** Creates a user, and a key of theirs. */
async function keyOf(id: string): Promise<string> {
  await server.admin("POST", "/admin/users", { id });
  return (await server.admin("POST", `/admin/users/${id}/keys`, {}))["key"]!;
}

t.test("prefixes: an earlier version is put back, by keyboard", async (t) => {
  const key = await keyOf("eve");
  const put = async (text: string): Promise<string> =>
    (await server.admin("PUT", "/prefixes/versioned", { text }))["digest"]!;
  const first = await put("one");
  const second = await put("and two");
  await server.admin("PATCH", "/prefixes/versioned", { readable_by: ["eve"] });

  const { page, wrong } = await server.signedIn(t, ADMIN_KEY, { width: 320, scheme: "dark" });
  await go(page, "Prefixes");
  await page.getByRole("button", { name: "versioned" }).click();
  const detail = page.getByRole("complementary", { name: "versioned" });
  const earlier = detail.getByRole("region", { name: "Earlier versions" });
  await earlier.getByText(first.slice(0, 8)).waitFor();
  t.equal(await earlier.getByRole("listitem").count(), 1, "without the current one");
  t.match(await earlier.innerText(), /1 virtual token,[^]*by admin key sha256:/);
  t.same(await faults(page), []);
  const puts = earlier.getByRole("button", { name: `Put back ${first.slice(0, 8)}` });
  await puts.focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog", { name: `Put back ${first.slice(0, 8)} as versioned?` });
  await dialog.waitFor();
  t.same(await faults(page), []);
  await page.keyboard.press("Escape");
  t.match(await page.evaluate("document.activeElement.ariaLabel"), /^Put back/, "the focus is where it was");

  // Somebody else's change in between is not overwritten unseen.
  const third = await put("three");
  await page.keyboard.press("Enter");
  await dialog.getByRole("button", { name: "Put back" }).focus();
  await page.keyboard.press("Enter");
  await dialog.getByText("It was not put back.").waitFor();
  await dialog.getByText("precondition_failed").waitFor();
  t.equal((await server.admin("GET", "/prefixes/versioned"))["digest"], third);
  await page.keyboard.press("Escape");

  await go(page, "Live");
  await go(page, "Prefixes");
  await page.getByRole("button", { name: "versioned" }).click();
  await earlier.getByText(second.slice(0, 8)).waitFor();
  await puts.focus();
  await page.keyboard.press("Enter");
  await dialog.getByRole("button", { name: "Put back" }).focus();
  await page.keyboard.press("Enter");
  await earlier.getByText(third.slice(0, 8)).waitFor();
  t.equal((await server.admin("GET", "/prefixes/versioned"))["digest"], first);
  await detail.getByText(first).waitFor();
  t.equal(await puts.count(), 0);
  t.equal(await page.evaluate("document.activeElement.textContent"), "Earlier versions", "the focus is near by");
  t.same(await faults(page), []);

  const reader = await server.signedIn(t, key);
  await go(reader.page, "Prefixes");
  await reader.page.getByRole("button", { name: "admin/versioned" }).click();
  await reader.page.getByText(third.slice(0, 8)).waitFor();
  t.equal(await reader.page.getByRole("button", { name: /^Put back/ }).count(), 0, "only the owner may");
  await server.admin("PATCH", "/prefixes/versioned", { readable_by: [], shared_with: ["eve"] });
  await go(reader.page, "Train");
  await go(reader.page, "Prefixes");
  await reader.page.getByRole("button", { name: "admin/versioned" }).click();
  await reader.page.getByText("1 virtual token,").waitFor();
  t.notOk(
    reader.asked.slice(-3).some((url) => url.endsWith("/versions")),
    "who may only use it does not ask",
  );
  t.same([...wrong, ...reader.wrong], []);
});

t.test("users: suspended and resumed, by keyboard", async (t) => {
  const key = await keyOf("mallory");
  const { page, wrong } = await server.signedIn(t, ADMIN_KEY, { width: 320 });
  await go(page, "Users");
  await page.getByRole("button", { name: "mallory" }).click();
  const detail = page.getByRole("complementary", { name: "mallory" });
  const button = detail.getByRole("button", { name: /^(Suspend…|Resume)$/ });
  await button.focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog", { name: "Suspend mallory?" });
  await dialog.waitFor();
  t.same(await faults(page), []);
  await page.keyboard.press("Escape");
  t.match(await server.admin("GET", "/admin/users/mallory"), { suspended: false });
  await page.keyboard.press("Enter");
  await dialog.getByRole("button", { name: "Suspend" }).focus();
  await page.route("**/admin/users/mallory", (route) => route.abort(), { times: 1 });
  await page.keyboard.press("Enter");
  await dialog.getByRole("alert").getByText("mallory was not suspended.").waitFor();
  await dialog.getByRole("button", { name: "Suspend" }).focus();
  await page.keyboard.press("Enter");
  await detail.getByText("The server refuses mallory's keys").waitFor();
  await page.getByRole("row", { name: /mallory.*suspended/ }).waitFor();
  t.match(await server.admin("GET", "/admin/users/mallory"), { suspended: true });
  t.equal(await page.evaluate("document.activeElement.textContent"), "Resume", "the focus is on what undoes it");
  t.same(await faults(page), []);

  const theirs = await server.open(t);
  await theirs.page.getByLabel("Your key").fill(key);
  await theirs.page.keyboard.press("Enter");
  await theirs.page.getByRole("alert").getByText("user_suspended").waitFor();

  await page.keyboard.press("Enter");
  await detail.getByText("The server refuses mallory's keys").waitFor({ state: "detached" });
  await page.getByRole("row", { name: /mallory.*active/ }).waitFor();
  t.match(await server.admin("GET", "/admin/users/mallory"), { suspended: false });
  await theirs.page.getByRole("button", { name: "Sign in" }).click();
  await theirs.page.getByRole("heading", { level: 1, name: "One prompt" }).waitFor();
  t.same([...wrong, ...theirs.wrong], []);
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
