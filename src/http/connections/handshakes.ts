/**
 * Connections in progress while a port closes. Closing a listening socket resets connections in its queue and those in
 * their handshake, even if the client has already sent a request. On Linux a filter on the socket first stops new
 * handshakes, so that the rest can be accepted. A client whose SYN was dropped retries after a second and is then
 * refused.
 */
import { readFile } from "node:fs/promises";
import type { Server } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";

/** Polling interval in milliseconds. */
const LOOK_MS = 5;

/** Linux's <asm-generic/socket.h>. */
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;

/**
 * Classic BPF (<linux/filter.h>), applied from the TCP header on: drops segments with SYN. Of the others, a listening
 * socket sees only the last one of a handshake. Accepted sockets inherit the filter; their segments have no SYN.
 */
const DROP_SYN = [
  { code: 0x30, jt: 0, jf: 0, k: 13 }, // ldb [13]: the flags
  { code: 0x45, jt: 0, jf: 1, k: 0x02 }, // jset SYN
  { code: 0x06, jt: 0, jf: 0, k: 0 }, // ret 0: drop
  { code: 0x06, jt: 0, jf: 0, k: 0xffff_ffff }, // ret all: pass
];

type SetSockOpt = (
  fd: number,
  level: number,
  name: number,
  program: { len: number; filter: typeof DROP_SYN },
  bytes: number,
) => number;
let setSockOpt: SetSockOpt | undefined;

/**
 * Stops new handshakes at this listening server. Returns false where that is impossible: not Linux, or the kernel
 * refuses.
 */
export function stopHandshakes(server: Server): boolean {
  if (process.platform !== "linux") return false;
  const fd = fileDescriptor(server);
  try {
    setSockOpt ??= bindSetSockOpt();
    return (
      setSockOpt(
        fd,
        SOL_SOCKET,
        SO_ATTACH_FILTER,
        { len: DROP_SYN.length, filter: DROP_SYN },
        koffi.sizeof("sock_fprog"),
      ) === 0
    );
  } catch {
    return false;
  }
}

/** Node has no public name for it. -1 if there is none. */
function fileDescriptor(server: Server & { readonly _handle?: { readonly fd?: number } | null }): number {
  return server._handle?.fd ?? -1;
}

function bindSetSockOpt(): SetSockOpt {
  koffi.struct("sock_filter", { code: "uint16_t", jt: "uint8_t", jf: "uint8_t", k: "uint32_t" });
  koffi.struct("sock_fprog", { len: "uint16_t", filter: "sock_filter *" });
  return koffi.load(null).func("int setsockopt(int fd, int level, int name, sock_fprog *program, uint32_t bytes)");
}

/**
 * Resolves when every connection for this port, begun or complete, has been accepted; or when their number has not
 * fallen for `limitMs` milliseconds, since a client that vanished never completes its handshake. For a port after
 * `stopHandshakes`.
 */
export async function allAccepted(port: number, limitMs: number): Promise<void> {
  let [fewest, since] = [Infinity, performance.now()];
  // A connection that completes while the tables are read may be in neither, so read them twice.
  for (let empty = 0; empty < 2 && performance.now() - since < limitMs; ) {
    await sleep(LOOK_MS);
    const tables = await Promise.all(
      ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map((path) => readFile(path, "latin1").catch(() => "")),
    );
    const count = tables.reduce((sum, table) => sum + unaccepted(table, port), 0);
    empty = count === 0 ? empty + 1 : 0;
    // Node accepts one per turn of the event loop, which may be slow on a busy machine.
    if (count < fewest) [fewest, since] = [count, performance.now()];
  }
}

/**
 * Counts unaccepted connections at a local port in a table in the format of /proc/net/tcp. A line is, in hexadecimal,
 * `0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 ...`: local address, remote address, state, bytes to send, bytes
 * to read. For a listening socket the last is its number of complete connections.
 */
export function unaccepted(table: string, port: number): number {
  let count = 0;
  for (const [, local, state, queued] of table.matchAll(
    /^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} (03|0A) [0-9A-F]{8}:([0-9A-F]{8}) /gm,
  )) {
    if (parseInt(local!, 16) !== port) continue;
    count += state === "0A" ? parseInt(queued!, 16) : 1;
  }
  return count;
}
