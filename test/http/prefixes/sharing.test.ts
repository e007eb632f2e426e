/** Who may use, see and read a prefix that its owner shares. */
import t from "tap";
import { PrefixdError } from "../../../src/errors.ts";
import { keyed, type Caller } from "../keyed.ts";

const HARD = { text: "hello" };

t.test("sharing with one user, with all, and with nobody again", async (t) => {
  const { send } = await keyed(t);
  const use = async (caller: Caller): Promise<number> =>
    (await send(caller, "POST", "/generate", { prompt: "a", prefix_id: "ann/p" })).statusCode;
  t.equal(await use("other"), 404);
  t.match((await send("owner", "PATCH", "/prefixes/p", { shared_with: ["bob"] })).json(), {
    visibility: "private",
    shared_with: ["bob"],
  });
  t.same([await use("other"), await use("admin")], [200, 404]);
  const seen = (await send("other", "GET", "/prefixes/ann%2Fp")).json();
  t.match(
    seen,
    {
      ...{ id: "ann/p", access: "use", base_model_name_or_path: null, warnings: [], shared_with: [], readable_by: [] },
      resident: null,
    },
    "whom else it is shared with is the owner's business",
  );
  t.match((await send("other", "POST", "/prefixes/ann%2Fp/generate", { prompt: "a" })).json(), {
    prefix: { id: "ann/p" },
  });
  for (const [method, body] of [["DELETE"], ["PATCH", { visibility: "shared" }], ["PUT", HARD]] as const) {
    t.match(
      (await send("other", method, "/prefixes/ann%2Fp", body)).json(),
      { status: 403, code: "prefix_not_owned", detail: /Only the owner, ann,/ },
      `${method}: to use is not to own`,
    );
    t.match((await send("admin", method, "/prefixes/ann%2Fp", body)).json(), { status: 404, code: "prefix_not_found" });
  }
  await send("owner", "PATCH", "/prefixes/ann%2Fp", { visibility: "shared", shared_with: [] });
  t.same([await use("other"), await use("admin")], [200, 200]);
  t.equal(
    (await send("owner", "PUT", "/prefixes/p", { text: "other" })).json<{ visibility: string }>().visibility,
    "shared",
    "a replacement stays shared",
  );
  await send("owner", "PATCH", "/prefixes/p", { visibility: "private" });
  t.same([await use("other"), await use("owner")], [404, 200]);
  for (const [body, code] of [
    [{}, "invalid_request"],
    [{ visibility: "public" }, "invalid_parameter"],
    [{ shared_with: ["../x"] }, "invalid_user_id"],
    [{ shared: true }, "unknown_field"],
  ] as const) {
    t.match((await send("owner", "PATCH", "/prefixes/p", body)).json(), { code }, JSON.stringify(body));
  }
  t.same((await send("other", "GET", "/prefixes")).json(), { prefixes: [], next: null });
});

t.test("permission to use a prefix does not include reading it", async (t) => {
  const { send } = await keyed(t);
  const files = ["/prefixes/ann%2Fp/adapter", "/prefixes/ann%2Fp/adapter/prompt.json"];
  const read = async (caller: Caller): Promise<unknown[]> =>
    Promise.all(files.map(async (url) => (await send(caller, "GET", url)).json<{ code?: string }>().code ?? "read"));
  t.same(await read("other"), ["prefix_not_found", "prefix_not_found"]);
  for (const sharing of [{ shared_with: ["bob"] }, { visibility: "shared", shared_with: [] }]) {
    await send("owner", "PATCH", "/prefixes/p", sharing);
    t.same(await read("other"), ["prefix_not_readable", "prefix_not_readable"]);
  }
  t.match((await send("other", "GET", files[1]!)).json(), {
    status: 403,
    detail: "You may send requests with ann/p but not download it: ann must add you to readable_by.",
  });
  t.match((await send("owner", "PATCH", "/prefixes/p", { visibility: "private", readable_by: ["bob"] })).json(), {
    access: "owner",
    visibility: "private",
    readable_by: ["bob"],
  });
  t.same(await read("other"), ["read", "read"]);
  t.equal(
    (await send("other", "POST", "/generate", { prompt: "a", prefix_id: "ann/p" })).statusCode,
    200,
    "who may read may use",
  );
  t.match((await send("other", "GET", "/prefixes/ann%2Fp")).json(), {
    access: "read",
    base_model_name_or_path: "/home/ann/gpt2",
    readable_by: [],
  });
  await send("owner", "PUT", "/prefixes/p", { text: "another" });
  t.same(await read("other"), ["read", "read"], "a replacement stays shared");
  t.same(await read("owner"), ["read", "read"]);
  t.same(await read("admin"), ["prefix_not_found", "prefix_not_found"]);
});

t.test("missing users are named, and nothing changes", async (t) => {
  const { send, app } = await keyed(t);
  const patch = async (body: object): Promise<{ status: number; code?: string; detail: string }> =>
    (await send("owner", "PATCH", "/prefixes/p", body)).json();
  t.match(await patch({ shared_with: ["bob", "nosuchuser"] }), {
    status: 422,
    code: "unknown_users",
    detail: 'There is no user "nosuchuser"; nothing was changed.',
  });
  t.match(await patch({ shared_with: ["eve"], readable_by: ["eve", "Bob"] }), {
    code: "unknown_users",
    detail: 'There are no users "eve", "Bob"; nothing was changed.',
  });
  const many = Array.from({ length: 1000 }, (_, i) => `u${i}`);
  const { code, detail } = await patch({ shared_with: many, readable_by: [...many].reverse() });
  t.equal(code, "unknown_users");
  t.match(detail, /^There are no users "u0", .*"u19" and 980 more; nothing was changed\.$/);
  t.match((await send("owner", "GET", "/prefixes/p")).json(), { shared_with: [], readable_by: [] });
  t.match(
    await patch({ shared_with: ["admin", "bob"], readable_by: ["bob"] }),
    { shared_with: ["admin", "bob"] },
    "the admin needs no record",
  );
  t.match(await patch({ shared_with: ["bob", "ann", "bob"] }), {
    code: "invalid_parameter",
    detail: 'shared_with names "bob" twice.',
  });
  t.match(await patch({ readable_by: Array.from({ length: 1001 }, (_, i) => `u${i}`) }), { code: "invalid_parameter" });
  app.users.down = new PrefixdError("store_unavailable", "away", { retryAfter: 2 });
  t.match(await patch({ shared_with: ["bob"] }), { code: "store_unavailable" });
});

t.test("lists page through one's own prefixes, then those that others share", async (t) => {
  const { app, send } = await keyed(t);
  const put = async (user: string, name: string, patch?: object): Promise<void> => {
    await app.registry.register({ user, name }, { kind: "hard", ids: Int32Array.of(1) });
    if (patch !== undefined) await app.registry.patch({ user, name }, patch);
  };
  for (const name of ["zebra", "mine"]) await put("bob", name, { visibility: "shared", shared_with: ["ann"] });
  await put("ann", "q", { shared_with: ["bob"] });
  await put("ann", "r", { readable_by: ["bob"] });
  await put("admin", "intent", { visibility: "shared" });
  await put("ann-x", "a", { visibility: "shared" });
  const page = async (query: string): Promise<{ prefixes: { id: string; access: string }[]; next: string | null }> =>
    (await send("other", "GET", `/prefixes?${query}`)).json();
  const whole = await page("");
  t.same(
    whole.prefixes.map(({ id, access }) => `${id} ${access}`),
    ["mine owner", "zebra owner", "admin/intent use", "ann-x/a use", "ann/q use", "ann/r read"],
  );
  t.equal(whole.next, null);
  for (const limit of [1, 2, 4]) {
    const ids: string[] = [];
    for (let next: string | null = ""; next !== null; ) {
      const one: Awaited<ReturnType<typeof page>> = await page(
        `limit=${limit}${next === "" ? "" : `&after=${encodeURIComponent(next)}`}`,
      );
      ids.push(...one.prefixes.map(({ id }) => id));
      next = one.next;
    }
    t.same(
      ids,
      whole.prefixes.map(({ id }) => id),
      `pages of ${limit}`,
    );
  }
  t.same(
    (await page("owner=me")).prefixes.map(({ id }) => id),
    ["mine", "zebra"],
  );
  t.same((await page("owner=others&limit=1")).next, "admin/intent");
  t.same(
    (await page("owner=others&after=ann-x%2Fa")).prefixes.map(({ id }) => id),
    ["ann/q", "ann/r"],
  );
  t.same(
    (await page("after=bob%2Fmine&limit=1")).prefixes.map(({ id }) => id),
    ["zebra"],
    "one's own id in full",
  );
});
