import t from "tap";
import { apiKeyId, createApiKey, hashApiKey, matchesHash } from "../../src/users/api-key.ts";
import { isUserId } from "../../src/users/user-id.ts";

t.test("a key names itself, and only it has its hash", async (t) => {
  const keys = Array.from({ length: 200 }, createApiKey);
  t.equal(new Set(keys.map(({ key }) => key)).size, 200);
  for (const { id, key, hash } of keys) {
    t.match(key, /^pfx_[0-9a-f]{16}_[A-Za-z0-9_-]{43}$/);
    t.equal(apiKeyId(key), id);
    t.equal(hashApiKey(key), hash);
    t.notOk(hash.includes(id) || key.includes(hash));
    t.ok(matchesHash(key, hash));
    t.notOk(matchesHash(key.slice(0, -1) + (key.endsWith("A") ? "B" : "A"), hash));
  }
  for (const hash of ["", "zz", "00", "0".repeat(63), "0".repeat(66)]) t.notOk(matchesHash(keys[0]!.key, hash));
});

t.test("texts that do not have the form of a key", async (t) => {
  const { key } = createApiKey();
  for (const bad of [
    "",
    "pfx_",
    key.slice(1),
    key + "A",
    key.slice(0, -1),
    key.toUpperCase(),
    key.replace("pfx_", "pfx-"),
    ` ${key}`,
    `${key}\n`,
    `${key.slice(0, -1)}=`,
    `${key.slice(0, -1)}é`,
    "x".repeat(1e6),
  ]) {
    t.equal(apiKeyId(bad), null, bad.slice(0, 80));
  }
});

t.test("user ids", async (t) => {
  for (const good of ["a", "0", "ann", "Ann.B_c-9", "x".repeat(64), "administrator"]) t.ok(isUserId(good), good);
  for (const bad of [
    "",
    "admin",
    "local",
    "ADMIN",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "-a",
    "_a",
    ".a",
    "a b",
    "a\n",
    "é",
    "ａ",
    "a{b}",
    "a%2f",
    "x".repeat(65),
    "\0",
  ])
    t.notOk(isUserId(bad), JSON.stringify(bad));
});
