/** What `runLoad` needs, with a scenario that a test changes. */
import { runLoad, type LoadOptions } from "../../src/load/run.ts";
import type { LoadResult } from "../../src/load/result.ts";
import type { Group, Scenario } from "../../src/load/scenario.ts";

export const STREAMS: Group["requests"] = { prompt_tokens: 2, max_new_tokens: 3 };

export function scenarioOf(groups: Scenario["groups"], more: Partial<Scenario> = {}): Scenario {
  return {
    name: "test",
    description: "a test",
    prefixes: { count: 4, virtual_tokens: 2, popularity: "uniform" },
    groups,
    verify: { cases: 0, share: 0, prompt_tokens: 2, max_new_tokens: 3 },
    slo: { ttft_ms: 100, inter_token_ms: 100 },
    pass: { error_rate: { "*": 0 } },
    ...more,
  };
}

export function load(url: string, scenario: Scenario, more: Partial<LoadOptions> = {}): Promise<LoadResult> {
  return runLoad({
    scenario,
    urls: [url],
    credentials: { adminKey: null, userKey: null },
    model: { shape: null, vocabulary: 256 },
    timeoutMs: 30_000,
    staleMs: 0,
    signal: new AbortController().signal,
    onPhase: () => undefined,
    onProgress: () => undefined,
    ...more,
  });
}
