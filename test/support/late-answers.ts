/** Answers that a page of the console gets when the test wants, and what the page asks meanwhile. */
import type { Page } from "playwright-core";

/** Something that is waited for. */
export function moment(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve };
}

interface Held {
  /** Resolves when the server has answered. */
  readonly answered: Promise<void>;
  /** Lets the page have the answer, and resolves when it has seen it. */
  release(): Promise<void>;
}

/** Keeps the answer to the next such request from the page. */
export async function hold(page: Page, url: string, method = "GET"): Promise<Held> {
  const answered = moment();
  const released = moment();
  const given = moment();
  let isFirst = true;
  await page.route(url, async (route) => {
    if (!isFirst || route.request().method() !== method) return route.fallback();
    isFirst = false;
    const response = await route.fetch();
    answered.resolve();
    await released.promise;
    await route.fulfill({ response });
    given.resolve();
  });
  return {
    answered: answered.promise,
    async release() {
      released.resolve();
      await given.promise;
      await drawn(page);
    },
  };
}

/** Resolves when what has come is drawn. */
export const drawn = (page: Page): Promise<unknown> =>
  page.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done, 50)), 50))");

/** How many such requests the page makes from now on. */
export function counted(page: Page, method: string, path: string): () => number {
  let count = 0;
  page.on("request", (request) => {
    if (request.method() === method && new URL(request.url()).pathname === path) count++;
  });
  return () => count;
}

/** The second half of a double click, wherever the first has led to. */
export async function clickAgain(page: Page): Promise<void> {
  await page.mouse.down({ clickCount: 2 });
  await page.mouse.up({ clickCount: 2 });
}
