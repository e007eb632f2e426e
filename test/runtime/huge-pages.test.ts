import { readFileSync } from "node:fs";
import t from "tap";
import { inHugePages } from "../../src/runtime/huge-pages.ts";
import { lacking } from "../support/requirements.ts";

const MIB = 1 << 20;

/** MiB of this process's memory that lie in huge pages. */
function hugeMiB(): number {
  let kib = 0;
  for (const [, size] of readFileSync("/proc/self/smaps", "utf8").matchAll(/^AnonHugePages: +(\d+) kB$/gm))
    kib += Number(size);
  return kib / 1024;
}

const filled = (mib: number): Uint8Array => new Uint8Array(mib * MIB).fill(7);

t.test(
  "what was loaded lies in huge pages, unchanged; what was there before stays as it is",
  { skip: lacking("huge-pages-on-request") },
  async (t) => {
    const before = filled(64);
    const start = hugeMiB();
    t.ok(start < 64, "the system did not put it there by itself");
    const loaded = inHugePages(() => filled(32));
    const gained = hugeMiB() - start;
    t.ok(gained >= 28 && gained < 64, `${gained} of 32 MiB`);
    t.ok([before, loaded].every((memory) => memory.every((byte) => byte === 7)));
  },
);

t.test("memory that nobody has touched takes none", { skip: lacking("huge-pages") }, async (t) => {
  const start = hugeMiB();
  const untouched = inHugePages(() => new Uint8Array(256 * MIB));
  t.ok(hugeMiB() - start < 8);
  t.equal(untouched[128 * MIB], 0);
});

t.test("the result and the error of loading are handed on, with and without huge pages", async (t) => {
  t.equal(
    inHugePages(() => 42),
    42,
  );
  t.throws(
    () =>
      inHugePages(() => {
        throw new RangeError("no such model");
      }),
    { name: "RangeError", message: "no such model" },
  );
});
