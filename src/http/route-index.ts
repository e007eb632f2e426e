import type { FastifyInstance } from "fastify";

/** Which methods a path takes, so that a wrong method is told from a wrong path. */
export class RouteIndex {
  readonly #routes: { pattern: RegExp; methods: string[] }[] = [];

  /** Must exist before the routes do. */
  constructor(app: FastifyInstance) {
    app.addHook("onRoute", (route) => {
      const methods = [route.method].flat();
      const pattern = route.url
        .replace(/[.+?^${}()|[\]\\]/g, "\\$&")
        .replace(/:\w+/g, "[^/]+")
        .replace(/\*$/, ".*");
      this.#routes.push({ pattern: new RegExp(`^${pattern}$`), methods });
    });
  }

  methodsFor(url: string): string[] {
    const path = url.split("?", 1)[0] ?? "";
    const found = this.#routes.filter(({ pattern }) => pattern.test(path)).flatMap(({ methods }) => methods);
    return [...new Set(found)].sort();
  }
}
