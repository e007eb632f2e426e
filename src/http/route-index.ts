import type { FastifyInstance } from "fastify";

/** The methods of each path, to tell a wrong method from a wrong path. */
export class RouteIndex {
  readonly #routes: { pattern: RegExp; methods: string[] }[] = [];

  /** Create it before the routes. */
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
