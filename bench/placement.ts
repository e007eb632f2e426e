/**
 * On which replica should a request run, so that its prefix is in memory there and no replica has too much to do?
 *
 *     npm run bench -- placement
 *
 * A simulation of 100 replicas behind a balancer; no time is measured. Requests come at random (Poisson) and take
 * exponentially distributed times. Prefixes are asked for by Zipf's law: the k-th most popular one in proportion to
 * 1 / k^s. A replica keeps the prefixes used last. Bounded loads are Mirrokni, Thorup and Zadimoghaddam's (2016), as
 * HAProxy's hash-balance-factor has them: a request goes to the first replica on the ring, from its prefix's place on,
 * that has fewer requests than the factor times the average.
 */
import { createHash } from "node:crypto";
import { seededRandom } from "../test/support/model.ts";
import { table, writeSection } from "./support/report.ts";

const REPLICAS = 100;
/** Places of a replica on the ring. */
const POINTS = 100;
const PREFIXES = 100_000;
/** Prefixes that a replica keeps: 512 MiB of GPT-2 small's with 10 virtual tokens. */
const KEPT = 700;
/** Requests in flight on average, of all replicas. */
const IN_FLIGHT = 16 * REPLICAS;
const [WARM_UP, REQUESTS] = [400_000, 400_000];
const SAMPLE_EVERY = 500;

type Policy = (prefix: number, loads: Int32Array, inFlight: number) => number;

const random = seededRandom(7);
const place = (text: string): number => createHash("sha256").update(text).digest().readUInt32LE(0);
const ring = Array.from({ length: REPLICAS * POINTS }, (_, i) => ({
  replica: Math.floor(i / POINTS),
  at: place(`replica ${i}`),
})).sort((a, b) => a.at - b.at);
/** For each prefix, where on the ring its search begins. */
const starts = Int32Array.from({ length: PREFIXES }, (_, prefix) => {
  const at = place(`prefix ${prefix}`);
  const found = ring.findIndex((point) => point.at >= at);
  return found < 0 ? 0 : found;
});

const bounded =
  (factor: number): Policy =>
  (prefix, loads, inFlight) => {
    const most = Math.ceil((factor * (inFlight + 1)) / REPLICAS);
    for (let step = 0; step < ring.length; step++) {
      const { replica } = ring[(starts[prefix]! + step) % ring.length]!;
      if (loads[replica]! < most) return replica;
    }
    throw new Error("the factor is below one");
  };
const POLICIES: Readonly<Record<string, Policy>> = {
  "at random": () => Math.floor(random() * REPLICAS),
  "fewest requests": (_, loads) => loads.indexOf(Math.min(...loads)),
  "by the prefix": (prefix) => ring[starts[prefix]!]!.replica,
  "by the prefix, at most 2 x average": bounded(2),
  "by the prefix, at most 1.25 x average": bounded(1.25),
};

/** Draws a prefix by Zipf's law: by bisection of the cumulative weights. */
function zipf(s: number): () => number {
  const sums = new Float64Array(PREFIXES);
  let total = 0;
  for (let k = 0; k < PREFIXES; k++) sums[k] = total += 1 / (k + 1) ** s;
  return () => {
    const drawn = random() * total;
    let [low, high] = [0, PREFIXES - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sums[middle]! < drawn) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}

/** Hits among the requests, and the busiest replica's requests over the average: mean and 99th percentile over time. */
function simulate(policy: Policy, draw: () => number): { hits: number; mean: number; p99: number } {
  const loads = new Int32Array(REPLICAS);
  const caches = Array.from({ length: REPLICAS }, () => new Map<number, true>());
  const running: { replica: number }[] = [];
  const ratios: number[] = [];
  let hits = 0;
  for (let arrived = 0; arrived < WARM_UP + REQUESTS; ) {
    // Times are exponential, so the next event is an arrival or any of the running requests' ends, by their rates alone.
    if (random() * (IN_FLIGHT + running.length) >= IN_FLIGHT) {
      const ended = Math.floor(random() * running.length);
      loads[running[ended]!.replica]!--;
      running[ended] = running.at(-1)!;
      running.pop();
      continue;
    }
    const prefix = draw();
    const replica = policy(prefix, loads, running.length);
    loads[replica]!++;
    running.push({ replica });
    const cache = caches[replica]!;
    if (cache.delete(prefix) && arrived >= WARM_UP) hits++;
    cache.set(prefix, true);
    if (cache.size > KEPT) cache.delete(cache.keys().next().value!);
    if (++arrived > WARM_UP && arrived % SAMPLE_EVERY === 0)
      ratios.push((Math.max(...loads) * REPLICAS) / running.length);
  }
  ratios.sort((a, b) => a - b);
  return {
    hits: hits / REQUESTS,
    mean: ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length,
    p99: ratios[Math.floor(0.99 * ratios.length)]!,
  };
}

const rows = [0.8, 1, 1.2].flatMap((s) => {
  const draw = zipf(s);
  return Object.entries(POLICIES).map(([name, policy]) => {
    const { hits, mean, p99 } = simulate(policy, draw);
    return [s, name, `${(100 * hits).toFixed(1)} %`, mean.toFixed(2), p99.toFixed(2)];
  });
});
writeSection(
  "placement",
  table(["Zipf's s", "a request goes", "prefix in memory", "busiest replica / average", "99th percentile"], rows),
  new URL("../docs/reference/scaling.md", import.meta.url),
);
