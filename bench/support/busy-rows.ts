/** An engine whose rows all decode: the cost of a full batch. */
import type { RequestHandle } from "../../src/engine/request.ts";
import type { ModelRunner } from "../../src/engine/runner.ts";
import type { KvTensor } from "../../src/kv.ts";
import { benchRequest, newEngine, promptIds } from "./gpt2.ts";

const PROMPT = 4;

/**
 * Milliseconds between two tokens of a row, for `steps` steps of `rows` rows, from the last row's first token. Rows
 * start one after the other, so each has a few tokens more than those after it; all carry `prefix`.
 */
export function interTokenTimes(runner: ModelRunner, rows: number, prefix: KvTensor, steps: number): Promise<number[]> {
  const engine = newEngine(runner);
  const positionsLeft = runner.shape.positions - prefix.length - PROMPT;
  return new Promise<number[]>((resolve, reject) => {
    const handles: RequestHandle[] = [];
    const last = new Float64Array(rows);
    const times: number[] = [];
    let started = 0;
    const onFinish = (): void => reject(new Error("a row ended before the others had been measured"));
    for (let row = 0; row < rows; row++) {
      const onToken = (): "continue" => {
        const now = performance.now();
        if (last[row] === 0) started++;
        else if (started === rows && times.push(now - last[row]!) === steps * rows) {
          for (const handle of handles) handle.cancel("cancelled");
          resolve(times);
        }
        last[row] = now;
        return "continue";
      };
      handles.push(
        engine.submit(benchRequest({ promptIds: promptIds(PROMPT, row), prefix, maxNewTokens: positionsLeft }), {
          onToken,
          onFinish,
          onError: reject,
        }),
      );
    }
  }).finally(() => engine.drain(0));
}
