import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { randomInt } from "node:crypto";

const LOWEST = 10_000;

/**
 * A port of the loopback on which nobody listens, for a server that is started in a moment. The system gives none of these to a connection
 * that goes out or to a server that listens on port 0, so it stays free, also while its server is away for a time.
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

/** Linux's default where it cannot be read. */
function firstEphemeralPort(): number {
  try {
    return Math.max(LOWEST + 1_000, parseInt(readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8"), 10));
  } catch {
    return 32_768;
  }
}
