/**
 * The memory's speed as one of the engines compared: the time per token when only the model's matrices are read.
 *
 *     tsx bench/peers/memory.ts BYTES
 *
 * One process per thread compares two equal halves of its share (memcmp, which reads both at the memory's speed), so
 * BYTES are read once per unit.
 */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { serveWork, THREADS, UNCOUNTED } from "./protocol.ts";

const SHARE = "share";
const [role, size] = process.argv.slice(2);
if (role === SHARE) serveReads(Number(size));
else await serveBound(Number(role));

async function serveBound(bytes: number): Promise<void> {
  const readers = Array.from({ length: THREADS }, () =>
    fork(fileURLToPath(import.meta.url), [SHARE, String(Math.ceil(bytes / THREADS))]),
  );
  const read = async (reader: ChildProcess): Promise<void> => {
    const answer = once(reader, "message");
    reader.send("read");
    await answer;
  };
  const readAll = (): Promise<unknown> => Promise.all(readers.map(read));
  await readAll();
  await serveWork({
    async "decode-1"(units) {
      for (let unit = 0; unit < UNCOUNTED; unit++) await readAll();
      const started = performance.now();
      for (let unit = 0; unit < units; unit++) await readAll();
      return (performance.now() - started) / 1000;
    },
  });
  process.exit(0);
}

/** Ends with its parent process. */
function serveReads(bytes: number): void {
  const [one, other] = [Buffer.alloc(bytes / 2, 1), Buffer.alloc(bytes / 2, 1)];
  process.on("message", () => process.send!(one.equals(other)));
}
