/** `rediss://` with a private authority, and with certificates of the clients' own. */
import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:tls";
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

t.test("a connection that ends as it becomes ready is replaced, and messages come again", async (t) => {
  let subscriptions = 0;
  let ended = 0;
  const ENDED = 3;
  const fake = createServer({ cert: readFileSync(server.cert), key: readFileSync(server.key) }, (socket) => {
    let isSubscriber = false;
    socket.on("error", () => undefined);
    socket.setEncoding("utf8").on("data", (text: string) => {
      for (const command of text.split(/(?=^\*\d+\r\n)/m)) {
        const [name = "", argument = ""] = [...command.matchAll(/\$\d+\r\n(.*)\r\n/g)].map((match) => match[1]!);
        isSubscriber ||= argument === "setname" && command.includes("prefixd-messages");
        if (name === "subscribe") {
          socket.write(`*3\r\n$9\r\nsubscribe\r\n$${argument.length}\r\n${argument}\r\n:1\r\n`);
          if (++subscriptions === 1) socket.destroy();
          else if (ended === ENDED)
            socket.write(`*3\r\n$7\r\nmessage\r\n$${argument.length}\r\n${argument}\r\n$5\r\nheard\r\n`);
        } else if (name === "info" && isSubscriber && subscriptions > 0 && ended < ENDED) {
          // The end comes with the answer: both are there before the client goes on.
          ended++;
          socket.end("$9\r\nloading:0\r\n");
        } else socket.write(name === "info" ? "$9\r\nloading:0\r\n" : "+OK\r\n");
      }
    });
  });
  await new Promise<void>((done) => fake.listen(0, "127.0.0.1", done));
  t.teardown(() => fake.close());
  const url = `rediss://127.0.0.1:${(fake.address() as AddressInfo).port}`;
  const redis = await openRedis({ url, tls: readRedisTls(files({ redisCaFile: ours.cert })) });
  t.teardown(() => redis.close());
  const heard: string[] = [];
  redis.subscribe("news", (message) => heard.push(message));
  await eventually(async () => heard.length > 0);
  t.equal(heard[0], "heard");
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
