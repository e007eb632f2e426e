import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { randomInt } from "node:crypto";

const LOWEST = 10_000;

/**
 * A free loopback port for a server about to start. It is outside the range the system uses for outgoing connections
 * and for port 0, so it stays free, even while its server is down for a time.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(LOWEST, firstEphemeralPort());
    const server = createServer().listen(port, "127.0.0.1");
    const listens = await once(server, "listening").then(
      () => true,
      () => false,
    );
    if (!listens) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

/** Falls back to Linux's default if it cannot be read. */
function firstEphemeralPort(): number {
  try {
    return Math.max(LOWEST + 1_000, parseInt(readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8"), 10));
  } catch {
    return 32_768;
  }
}
