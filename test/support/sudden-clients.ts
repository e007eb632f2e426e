/** Clients in their own thread: the server learns what they do only when this thread is free again. */
import { Worker } from "node:worker_threads";

const CLIENTS = `
  const { workerData, parentPort } = require("node:worker_threads");
  const { connect } = require("node:net");
  const { port, count, flags, patienceMs } = workerData;
  const ends = Array(count);
  let connected = 0;
  const done = () => { Atomics.store(flags, 1, 1); Atomics.notify(flags, 1); };
  parentPort.postMessage("ready");
  Atomics.wait(flags, 0, 0);
  setTimeout(done, patienceMs);
  for (let index = 0; index < count; index++) {
    const end = (text) => { ends[index] ??= text; if (!ends.includes(undefined)) parentPort.postMessage(ends); };
    let answer = "";
    const socket = connect(port, "127.0.0.1", () => {
      socket.write("GET /prefixes HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n");
      if (++connected === count) done();
    });
    socket.on("data", (bytes) => (answer += bytes)).on("error", ({ code }) => end(code)).on("close", () => end(answer.slice(9, 12)));
  }
`;

/** Milliseconds to wait for connections that nobody accepts. */
const PATIENCE_MS = 300;

export interface SuddenClients {
  /** All connect and send a request; returns when they have, or cannot. Blocks this thread meanwhile. */
  come(): void;
  /** Each client's outcome: a status ("" for none) or the error's code. */
  readonly ends: Promise<readonly string[]>;
}

/** Resolves when the clients are ready. */
export async function suddenClients(port: number, count: number): Promise<SuddenClients> {
  const flags = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(CLIENTS, { eval: true, workerData: { port, count, flags, patienceMs: PATIENCE_MS } });
  const next = (): Promise<unknown> =>
    new Promise((resolve, reject) => void worker.once("message", resolve).once("error", reject));
  await next();
  const ends = next() as Promise<readonly string[]>;
  return {
    ends,
    come() {
      Atomics.store(flags, 0, 1);
      Atomics.notify(flags, 0);
      Atomics.wait(flags, 1, 0);
    },
  };
}
