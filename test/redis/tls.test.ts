/** `rediss://` with a private authority, and with certificates of the clients' own. */
import { readFileSync } from "node:fs";
import t from "tap";
import { openRedis } from "../../src/redis/connection.ts";
import { readRedisTls, type RedisTlsFiles } from "../../src/redis/tls.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { user } from "../contract/user-store.ts";
import { certificateAuthority } from "../support/certificates.ts";
import { eventually } from "../support/fault-client.ts";
import { freePort } from "../support/free-port.ts";
import { startRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "redis-server", "openssl");

const dir = t.testdir({ "none.pem": "no certificate" });
const [ours, others] = [certificateAuthority(dir, "ours"), certificateAuthority(dir, "others")];
const [server, client, stranger] = [ours.issue("server"), ours.issue("client"), others.issue("stranger")];
const files = (over: Partial<RedisTlsFiles>): RedisTlsFiles => ({
  store: "rediss://127.0.0.1",
  redisCaFile: "",
  redisCertFile: "",
  redisKeyFile: "",
  ...over,
});

t.test("a store by TLS, and who is refused", async (t) => {
  const tlsPort = await freePort();
  const tls = ["--tls-port", String(tlsPort), "--tls-cert-file", server.cert, "--tls-key-file", server.key];
  const redis = await startRedis(...tls, "--tls-ca-cert-file", ours.cert, "--tls-auth-clients", "yes");
  t.teardown(() => redis.stop());
  const url = `rediss://127.0.0.1:${tlsPort}`;
  const whole = files({ redisCaFile: ours.cert, redisCertFile: client.cert, redisKeyFile: client.key });
  const users = await openRedisUserStore({ url, tls: readRedisTls(whole) });
  t.teardown(() => users.close());
  await users.createUser(user("ann"));
  t.same(await users.getUser("ann"), user("ann"));
  t.equal(await redis.command("EXISTS", "prefixd:{ann}:user"), 1);
  for (const [what, over, reason] of [
    ["no authority", { ...whole, redisCaFile: "" }, /self.signed certificate|unable to (get|verify)/i],
    ["another authority", { ...whole, redisCaFile: others.cert }, /self.signed certificate|unable to (get|verify)/i],
    ["no certificate", { ...whole, redisCertFile: "", redisKeyFile: "" }, /certificate required|ECONNRESET|closed/i],
    [
      "a stranger's",
      { ...whole, redisCertFile: stranger.cert, redisKeyFile: stranger.key },
      /unknown ca|ECONNRESET|closed/i,
    ],
  ] as const) {
    const errors: string[] = [];
    const refused = await openRedis({
      url,
      tls: readRedisTls(over),
      commandTimeoutMs: 1000,
      onError: ({ message }) => errors.push(message),
    });
    await eventually(async () => errors.length > 0);
    await t.rejects(refused.client.ping(), what);
    refused.close();
    t.match(errors.join("; "), reason, what);
  }
  await redis.kill();
  await redis.start();
  await eventually(() => users.ping().then(() => true));
});

t.test("files that cannot be used end the start, without showing a key", (t) => {
  for (const [over, message] of [
    [{ redisCaFile: ours.cert, store: "redis://h" }, /^--redis-ca-file: is for --store rediss/],
    [{ redisCertFile: client.cert }, /give both or neither$/],
    [{ redisCaFile: `${dir}/nowhere.pem` }, /^--redis-ca-file .*nowhere\.pem: there is no such file or folder$/],
    [{ redisCaFile: `${dir}/none.pem` }, /^--redis-ca-file .*: it is not what is wanted, in PEM/],
    [
      { redisCertFile: client.cert, redisKeyFile: client.cert },
      /^--redis-key-file .*: it is not what is wanted, in PEM/,
    ],
  ] as const)
    t.throws(() => readRedisTls(files(over)), { name: "ConfigError", message });
  t.equal(readRedisTls(files({ redisCaFile: ours.cert })).ca, readFileSync(ours.cert, "utf8"));
  t.same(readRedisTls(files({ store: "redis://h" })), {});
  t.end();
});
