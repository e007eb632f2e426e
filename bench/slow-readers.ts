/**
 * What do streams cost that nobody reads? STREAMS (1,000) clients each request a long stream with log probabilities and
 * read none of it; beside them a polite client, another user, streams short answers one after another. Demo model, the
 * server in its own process.
 *
 *     npm run bench -- slow-readers        (Linux: reads /proc, needs unshare and ip)
 *
 * On loopback the kernel would buffer more of each stream than the demo model can generate. So everything runs in its
 * own network namespace, where a socket holds little.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { CACHE } from "./support/gpt2.ts";
import { machine, quantile, table, writeSection } from "./support/report.ts";
import { build, CLI, listening, newUser, residentBytes } from "./support/server-process.ts";

const STREAMS = Number(process.env["STREAMS"] ?? 1000);
/**
 * Tokens of an unread stream: less than --stream-buffer beyond what the kernel takes, so that all are stuck together.
 */
const TOKENS = Number(process.env["TOKENS"] ?? 180);
/** What the greedy user may run at once, of 32 slots: what docs/guides/operate.md advises for users whom one does not trust. */
const RUNNING = 28;
const POLITE = 40;
const SEND_TIMEOUT_S = 40;
/** Time until the counters are up to date. */
const SETTLE_S = 3;
const LIMIT_MS = 150_000;
/** Kernel buffer at either end of a connection, in bytes: minimum, initial, maximum. */
const SOCKET_BYTES = "4096 16384 16384";
const LONG = JSON.stringify({
  prompt: "once upon a time",
  max_new_tokens: TOKENS,
  ignore_eos: true,
  logprobs: 20,
  stream: true,
});
const INSIDE = "SLOW_READERS_NETWORK";
const ADMIN_KEY = "slow-readers-0123456789abcdef0123456789";

if (process.env[INSIDE] === undefined) {
  build();
  const script = `ip link set lo up && echo ${SOCKET_BYTES} > /proc/sys/net/ipv4/tcp_wmem && echo ${SOCKET_BYTES} > /proc/sys/net/ipv4/tcp_rmem && exec "$@"`;
  const again = [process.execPath, ...process.execArgv, fileURLToPath(import.meta.url)];
  const { status } = spawnSync("unshare", ["--net", "--map-root-user", "sh", "-c", script, "sh", ...again], {
    stdio: "inherit",
    env: { ...process.env, [INSIDE]: "1" },
  });
  process.exit(status ?? 1);
}

const deadline = performance.now() + LIMIT_MS;
const folder = mkdtempSync(join(tmpdir(), "prefixd-slow-readers-"));
const flags = [
  "--port",
  "0",
  "--cache-dir",
  CACHE,
  "--store",
  `lmdb:${folder}`,
  "--max-connections",
  String(STREAMS + 100),
  "--max-queue",
  String(STREAMS + 100),
  "--send-timeout",
  String(SEND_TIMEOUT_S),
];
const server = spawn(process.execPath, [CLI, "serve", ...flags], {
  stdio: ["ignore", "pipe", "inherit"],
  env: { ...process.env, PREFIXD_ADMIN_KEY: ADMIN_KEY },
});
const exited = once(server, "exit");
const sockets: Socket[] = [];
try {
  await measure();
} finally {
  for (const socket of sockets) socket.destroy();
  server.kill("SIGTERM");
  await exited;
  rmSync(folder, { recursive: true });
}

async function measure(): Promise<void> {
  const url = await listening(server.stdout, exited);
  const [greedy, polite] = [
    await newUser(url, ADMIN_KEY, { id: "greedy", limits: { max_running: RUNNING } }),
    await newUser(url, ADMIN_KEY, { id: "polite" }),
  ];
  let asked = 0;
  const ask = (): Promise<number> => {
    asked++;
    return firstToken(url, polite);
  };
  const askMany = async (): Promise<number[]> => {
    const times: number[] = [];
    while (times.length < POLITE) times.push(await ask());
    return times;
  };
  const streamBytes = (
    await (await fetch(`${url}/generate`, { method: "POST", headers: jsonHeaders(greedy), body: LONG })).arrayBuffer()
  ).byteLength;
  await askMany();
  const before = { times: await askMany(), rss: rss() };

  // A request counts when its last token has been generated, whether or not anybody reads it.
  const others = (await read(url)).requests - asked;
  const started = performance.now();
  sockets.push(...Array.from({ length: STREAMS }, () => neverReads(Number(new URL(url).port), greedy)));
  const generating: number[] = [];
  let peak = before.rss;
  let counts = await read(url);
  while (counts.requests - others - asked < STREAMS) {
    generating.push(await ask());
    peak = Math.max(peak, rss());
    counts = await read(url);
    inTime();
  }
  const seconds = (performance.now() - started) / 1000;
  const held = STREAMS - counts.cut;
  const stuck = { times: await askMany(), kernel: kernelBytes(), rss: rss() };
  const cutAfter = async (timeouts: number): Promise<number> => {
    while (
      counts.cut < STREAMS &&
      performance.now() - started < 1000 * (seconds + timeouts * SEND_TIMEOUT_S + SETTLE_S)
    ) {
      await sleep(500);
      counts = await read(url);
      inTime();
    }
    return counts.cut;
  };
  const [cutOnce, cutTwice] = [await cutAfter(1), await cutAfter(2)];
  for (const socket of sockets) socket.destroy();
  await sleep(1000 * SETTLE_S);
  const after = { times: await askMany(), rss: rss() };

  const row = (state: string, times: readonly number[], bytes: number): string[] => [
    state,
    mib(bytes),
    String(times.length),
    ...[0.5, 0.99].map((q) => quantile(times, q).toFixed(0)),
  ];
  const lines = [
    `${STREAMS} streams of ${TOKENS} tokens with the 20 likeliest of each, ${kib(streamBytes)} KiB a stream, none of which is read. Demo model, 32 slots, of which their user may have ${RUNNING}; --stream-buffer 256KiB, --send-timeout ${SEND_TIMEOUT_S}. ${machine()}.`,
    "",
    ...table(
      ["state", "RSS, MiB", "polite requests", "their TTFT p50, ms", "p99, ms"],
      [
        row("before", before.times, before.rss),
        row("while the streams are generated", generating, peak),
        row("all stuck", stuck.times, stuck.rss),
        row("after they were cut, the last by us", after.times, after.rss),
      ],
    ),
    "",
    `The second row's RSS is the peak. The streams were generated in ${seconds.toFixed(0)} s; ${held} connections were then stuck, each with ${kib((stuck.rss - before.rss) / held)} KiB of RSS and ${kib(stuck.kernel / held)} KiB in the kernel.`,
    `Cut as \`not_reading\`: ${counts.tooSlow} while they were generated (outcome \`too_slow\`), ${cutOnce} in all ${SEND_TIMEOUT_S} s after the last was complete, ${cutTwice} after another ${SEND_TIMEOUT_S} s. As requests they count as \`ok\`: their last token had been generated.`,
    "",
    `The kernel holds so little because a socket here may have ${SOCKET_BYTES.split(" ")[2]} bytes at either end. On loopback with Linux's defaults it takes 3.8 MB of a stream (\`tcp_wmem\`), which is not in the server's RSS; what bounds it for the whole machine is \`net.ipv4.tcp_mem\`.`,
  ];
  if (process.env["DRY"] === undefined) writeSection("slow-readers", lines);
  console.log(lines.join("\n"));
}

function jsonHeaders(key: string): Record<string, string> {
  return { authorization: `Bearer ${key}`, "content-type": "application/json" };
}

function neverReads(port: number, key: string): Socket {
  const socket = connect(port, "127.0.0.1").on("error", () => undefined);
  socket.pause();
  socket.write(
    `POST /generate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: ${LONG.length}\r\n\r\n${LONG}`,
  );
  return socket;
}

/** Milliseconds to the first event of a short stream, which is then read to its end. */
async function firstToken(url: string, key: string): Promise<number> {
  const body = JSON.stringify({ prompt: "once upon a time", max_new_tokens: 8, ignore_eos: true, stream: true });
  const started = performance.now();
  const response = await fetch(`${url}/generate`, { method: "POST", headers: jsonHeaders(key), body });
  if (!response.ok) throw new Error(await response.text());
  const reader = response.body!.getReader();
  await reader.read();
  const elapsed = performance.now() - started;
  while (!(await reader.read()).done);
  return elapsed;
}

/**
 * `cut`: connections whose client did not read; `requests`: generate requests that have ended; `tooSlow`: of them, cut
 * before that.
 */
async function read(url: string): Promise<{ cut: number; requests: number; tooSlow: number }> {
  const text = await (await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } })).text();
  const sum = (pattern: RegExp): number =>
    [...text.matchAll(pattern)].reduce((total, [, count]) => total + Number(count), 0);
  return {
    cut: sum(/^prefixd_connections_cut_total\{reason="not_reading"\} (\d+)$/gm),
    requests: sum(/^prefixd_requests_total\{.+\} (\d+)$/gm),
    tooSlow: sum(/^prefixd_requests_total\{outcome="too_slow"\} (\d+)$/gm),
  };
}

function rss(): number {
  return residentBytes(server.pid!);
}

/** Bytes waiting in this network namespace's sockets, on both sides. */
function kernelBytes(): number {
  const lines = readFileSync("/proc/net/tcp", "utf8").trim().split("\n").slice(1);
  return lines.reduce(
    (sum, line) =>
      sum +
      line
        .trim()
        .split(/\s+/)[4]!
        .split(":")
        .reduce((both, hex) => both + parseInt(hex, 16), 0),
    0,
  );
}

function inTime(): void {
  if (performance.now() > deadline) throw new Error(`not done in ${LIMIT_MS / 1000} s: fewer STREAMS or TOKENS`);
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}

function kib(bytes: number): string {
  return (bytes / 1024).toFixed(0);
}
