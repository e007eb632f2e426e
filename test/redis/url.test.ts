import fc from "fast-check";
import t from "tap";
import { parseRedisUrl, RedisUrlError, withoutPasswords } from "../../src/redis/url.ts";

const at = (host: string, port = 6379, tls = false): object => ({ at: { host, port, tls }, cluster: false, db: 0 });

t.test("URLs of the documented form", async (t) => {
  const cases: Record<string, object> = {
    "redis://localhost": at("localhost"),
    "redis://localhost/": at("localhost"),
    "redis://127.0.0.1:8110": at("127.0.0.1", 8110),
    "redis://my_redis-0.example.:1/0": at("my_redis-0.example.", 1),
    "redis://h/15": { ...at("h"), db: 15 },
    "redis://h:65535/2147483647": { ...at("h", 65_535), db: 2_147_483_647 },
    "rediss://h:6380": at("h", 6380, true),
    "redis://[::1]": at("::1"),
    "redis://[2001:db8::7]:7000/3": { ...at("2001:db8::7", 7000), db: 3 },
    "redis://user:word@h": { ...at("h"), username: "user", password: "word" },
    "redis://:word@h": { ...at("h"), password: "word" },
    "redis://user@h": { ...at("h"), username: "user", password: "" },
    "redis://user:@h": { ...at("h"), username: "user", password: "" },
    "redis://u%40x:p%40ss%2Fw%3Ard%231%3F%25%20%C3%A9@[::1]:1/2": {
      ...at("::1", 1),
      db: 2,
      username: "u@x",
      password: "p@ss/w:rd#1?% é",
    },
    "redis://u-._~!$&'()*+,;=:p-._~!$&'()*+,;=@h": {
      ...at("h"),
      username: "u-._~!$&'()*+,;=",
      password: "p-._~!$&'()*+,;=",
    },
    "redis://h?cluster=true": { ...at("h"), cluster: true },
    "rediss://h:1/0?cluster=true": { ...at("h", 1, true), cluster: true },
    "redis://a,b:7001,[::1]:7002?cluster=true": {
      ...at("a"),
      others: [
        { host: "b", port: 7001 },
        { host: "::1", port: 7002 },
      ],
      cluster: true,
    },
    "redis://u:word@s1,s2:9/2?sentinel=my.primary-1": {
      ...at("s1", 26379),
      others: [{ host: "s2", port: 9 }],
      sentinel: "my.primary-1",
      db: 2,
      username: "u",
      password: "word",
    },
    "rediss://s1:1?sentinel=x": { ...at("s1", 1, true), sentinel: "x" },
    "redis://h/3?cluster=false": { ...at("h"), db: 3 },
    "unix:///run/redis/redis.sock": { at: { path: "/run/redis/redis.sock" }, cluster: false, db: 0 },
    "unix://user:p%40ss@/tmp/a%20b@c:d?db=4": {
      at: { path: "/tmp/a b@c:d" },
      cluster: false,
      db: 4,
      username: "user",
      password: "p@ss",
    },
    "unix://:word@/x": { at: { path: "/x" }, cluster: false, db: 0, password: "word" },
  };
  for (const [url, address] of Object.entries(cases)) t.same(parseRedisUrl(url), address, url);
});

t.test("other URLs are refused, with the reason", async (t) => {
  const encoded = /percent-encoded/;
  const cases: [url: string, message: RegExp][] = [
    ["redis://h/abc", /^the database must be a whole number from 0 to 2147483647/],
    ["redis://h/1/2", /the database/],
    ["redis://h/1/", /the database/],
    ["redis://h/1.5", /the database/],
    ["redis://h/-1", /the database/],
    ["redis://h/01", /the database/],
    ["redis://h/99999999999", /the database/],
    ["redis://h/2147483648", /the database/],
    ["redis://h/1 ", /the database/],
    ["redis://h//", /the database/],
    ["redis://:SECRET@SECRET/w:SECRET#1@127.0.0.1:8110", encoded],
    ["redis://u:SECRET@SECRET@h", encoded],
    ["redis://u:SECRET:SECRET@h", encoded],
    ["redis://u:SECRET/SECRET@h", encoded],
    ["redis://u:SECRET#SECRET@h", encoded],
    ["redis://u:SECRET?SECRET@h", encoded],
    ["redis://u:1/SECRET@h", encoded],
    ["redis://u:SECRET%@h", encoded],
    ["redis://u:SECRET%4@h", encoded],
    ["redis://u:SECRET%zz@h", encoded],
    ["redis://u:SECRET%ff@h", /must be UTF-8/],
    ["redis://u:SECRET%00@h", encoded],
    ["redis://u:SECRET SECRET@h", encoded],
    ["redis://u:SECRETé@h", encoded],
    ["redis://u:SECRET\\@h", encoded],
    ["redis://@h", /neither a user nor a password/],
    ["redis://:@h", /neither a user nor a password/],
    ["redis://", /a host is missing/],
    ["redis://:6379", /a host is missing/],
    ["redis://u:SECRET@", /a host is missing/],
    ["redis://u:SECRET@:1", /a host is missing/],
    ["redis:///tmp/x.sock", /a host is missing \(a Unix socket is unix:\/\/\/PATH\)/],
    ["redis://::1", /in brackets/],
    ["redis://[::1", /in brackets/],
    ["redis://[SECRET]", /in brackets/],
    ["redis://[fe80::1%eth0]", /in brackets/],
    ["redis://[::1]x", /in brackets/],
    ["redis://a b", /the host must be/],
    ["redis://h%41", /the host must be/],
    ["redis://hé", /the host must be/],
    ["redis://127.1", /the host must be/],
    ["redis://256.0.0.1", /the host must be/],
    ["redis://-h", /the host must be/],
    ["redis://h:", /the port must be a whole number from 1 to 65535/],
    ["redis://h:0", /the port/],
    ["redis://h:65536", /the port/],
    ["redis://h:06379", /the port/],
    ["redis://h:6379 ", /the port/],
    ["redis://h:6379\n", /the port/],
    ["redis://h:SECRET", /the port/],
    ["redis://h?", /the only parameter is \?cluster=true .*\?sentinel=NAME/],
    ["redis://h?db=1", /the only parameter/],
    ["redis://h?password=SECRET", /the only parameter/],
    ["redis://h?cluster=true&db=1", /the only parameter/],
    ["redis://h?Cluster=true", /the only parameter/],
    ["redis://a,b", /several hosts are for/],
    ["redis://a,b?cluster=false", /several hosts are for/],
    ["redis://a,?cluster=true", /a host is missing/],
    ["redis://a,b:SECRET?cluster=true", /the port/],
    ["redis://h?sentinel=", /the name after \?sentinel=/],
    ["redis://h?sentinel=a&cluster=true", /the name after \?sentinel=/],
    ["redis://h?sentinel=SECRET%20", /the name after \?sentinel=/],
    ["redis://h#1", encoded],
    ["redis://h/1?cluster=true", /database 0 only/],
    ["unix://", /from the root/],
    ["unix:///", /from the root/],
    ["unix://tmp/x", /from the root/],
    ["unix://u:SECRET@tmp/x", /from the root/],
    ["unix:/tmp/x", /expected redis/],
    ["unix:///x?db=a", /the database/],
    ["unix:///x?db=", /the database/],
    ["unix:///x?password=SECRET", /the only parameter is \?db=DB/],
    ["unix:///x?db=1&db=2", /the database/],
    ["unix:///a b", encoded],
    ["unix:///a#b", encoded],
    ["unix:///a%00", encoded],
    ["REDIS://h", /in lower case/],
    ["Redis://u:SECRET@h", /in lower case/],
    [" redis://h", /expected redis/],
    ["redis:h", /expected redis/],
    ["redis:/h", /expected redis/],
    ["http://u:SECRET@h", /expected redis/],
    ["", /expected redis/],
  ];
  for (const [url, message] of cases) {
    t.throws(() => parseRedisUrl(url), { name: "RedisUrlError", message }, url);
    t.throws(() => parseRedisUrl(url), { message: /^((?!SECRET)[^\n])*$/ }, "nothing of the password");
  }
});

t.test("any password, percent-encoded, is decoded as it was", async (t) => {
  const word = fc.string({ unit: "binary", minLength: 1 }).filter((text) => !text.includes("\0"));
  fc.assert(
    fc.property(word, word, fc.nat(15), (user, password, db) => {
      const login = `${encodeURIComponent(user)}:${encodeURIComponent(password)}@`;
      const expected = { db, username: user, password };
      t.match(parseRedisUrl(`redis://${login}h:7/${db}`), expected);
      t.match(parseRedisUrl(`unix://${login}/x?db=${db}`), expected);
      t.equal(
        withoutPasswords(`node main.js --store=redis://${login}h:7/${db} --port 1`),
        `node main.js --store=redis://***@h:7/${db} --port 1`,
      );
    }),
    { numRuns: 200 },
  );
  t.pass("200 of them");
});

t.test("any text is either an address or a RedisUrlError", async (t) => {
  const piece = fc.constantFrom(
    "redis://",
    "rediss://",
    "unix://",
    ":",
    "@",
    "/",
    "?",
    "#",
    "%",
    "%2",
    "[",
    "]",
    "h",
    "1",
    "cluster=true",
    "db=",
    " ",
    "é",
    "\n",
    "::1",
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      try {
        const { at, db } = parseRedisUrl(pieces.join(""));
        if ("path" in at ? !at.path.startsWith("/") : at.host === "" || !(at.port >= 1)) return false;
        return Number.isInteger(db) && db >= 0;
      } catch (error) {
        return error instanceof RedisUrlError && !error.message.includes("\n");
      }
    }),
    { numRuns: 5000 },
  );
  t.pass("5000 of them");
});
