/**
 * Connections at the edge of a port that closes. Closing a listening socket resets those in its queue and those whose handshake is not
 * over, although their clients may have sent a request. On Linux a filter on the socket stops new handshakes first, so that the rest can
 * be accepted; a client whose first packet was dropped sends it again after a second, and is then refused.
 */
import { readFile } from "node:fs/promises";
import type { Server } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";

/** Milliseconds between two looks. */
const LOOK_MS = 5;

/** Linux's <asm-generic/socket.h>. */
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;

/**
 * Classic BPF (<linux/filter.h>) over a segment from its TCP header on: drop those with SYN. Of the others a listening socket sees only
 * the last one of a handshake. Accepted sockets inherit the filter; their segments have no SYN.
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

/** From now on no handshake begins at this listening server. False where that cannot be had: not Linux, or a kernel that refuses. */
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

/** Node has no name for it that is public. -1 where there is none. */
function fileDescriptor(server: Server & { readonly _handle?: { readonly fd?: number } | null }): number {
  return server._handle?.fd ?? -1;
}

function bindSetSockOpt(): SetSockOpt {
  koffi.struct("sock_filter", { code: "uint16_t", jt: "uint8_t", jf: "uint8_t", k: "uint32_t" });
  koffi.struct("sock_fprog", { len: "uint16_t", filter: "sock_filter *" });
  return koffi.load(null).func("int setsockopt(int fd, int level, int name, sock_fprog *program, uint32_t bytes)");
}

/**
 * Resolves when the kernel has no connection left for this port, begun or complete, that nobody has accepted; or when `limitMs`
 * milliseconds have passed since they last became fewer: a client that has vanished never completes its own. For a port at which no
 * handshake begins any more.
 */
export async function allAccepted(port: number, limitMs: number): Promise<void> {
  let [fewest, since] = [Infinity, performance.now()];
  // A connection that moves from begun to complete while the tables are read is in neither. The second time it has moved.
  for (let empty = 0; empty < 2 && performance.now() - since < limitMs; ) {
    await sleep(LOOK_MS);
    const tables = await Promise.all(
      ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map((path) => readFile(path, "latin1").catch(() => "")),
    );
    const count = tables.reduce((sum, table) => sum + unaccepted(table, port), 0);
    empty = count === 0 ? empty + 1 : 0;
    // Node accepts one in a turn of its event loop, which on a busy machine is not often.
    if (count < fewest) [fewest, since] = [count, performance.now()];
  }
}

/**
 * Connections at a local port that nobody has accepted, of a table as /proc/net/tcp. A line is, in hexadecimal,
 * `0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 ...`: local address, other address, state, bytes to send, bytes to read; a listening
 * socket has its complete connections for the latter.
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
