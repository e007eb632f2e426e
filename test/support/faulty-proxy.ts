import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** A bad network to a loopback port. Settings apply from the next bytes on. */
export interface FaultyProxy {
  readonly port: number;
  /** Delay each way in milliseconds. */
  latency: number;
  /** Bytes per second, per direction of each connection. */
  bandwidth: number;
  /** If true, connections are accepted but nothing is forwarded. */
  silent: boolean;
  /** Cuts all connections after this many more bytes up, or down. */
  readonly cutAfter: { up: number; down: number };
  /** Cuts all connections now. */
  cut(): void;
  stop(): Promise<void>;
}

export async function startFaultyProxy(target: number): Promise<FaultyProxy> {
  const sockets = new Set<Socket>();
  const server = createServer();

  /**
   * One direction of a connection: chunks arrive in order, each `latency` after it was sent, no faster than the
   * bandwidth.
   */
  const pass = (from: Socket, to: Socket, way: "up" | "down"): void => {
    let last: Promise<unknown> = Promise.resolve();
    from.on("data", (chunk: Buffer) => {
      const arrived = sleep(proxy.latency);
      last = last.then(async () => {
        await arrived;
        while (proxy.silent && !from.destroyed) await sleep(10);
        if (proxy.bandwidth < Infinity) await sleep((1000 * chunk.length) / proxy.bandwidth);
        if (!to.destroyed) to.write(chunk);
        proxy.cutAfter[way] -= chunk.length;
        if (proxy.cutAfter[way] > 0) return;
        proxy.cutAfter[way] = Infinity;
        proxy.cut();
      });
    });
    from.on("close", () => to.destroy());
    from.on("error", () => to.destroy());
  };

  const proxy = {
    port: 0,
    latency: 0,
    bandwidth: Infinity,
    silent: false,
    cutAfter: { up: Infinity, down: Infinity },
    cut: () => sockets.forEach((socket) => socket.destroy()),
    async stop() {
      proxy.cut();
      server.close();
      await once(server, "close");
    },
  };
  server.on("connection", (client) => {
    const upstream = connect(target, "127.0.0.1");
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
    }
    pass(client, upstream, "up");
    pass(upstream, client, "down");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  proxy.port = (server.address() as AddressInfo).port;
  return proxy;
}
