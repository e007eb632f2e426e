/** The console: the pages that `npm run build` makes of src/console/, at /console. They speak HTTP as any client does. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import staticFiles from "@fastify/static";
import { PrefixdError } from "../errors.ts";
import type { TypedApp } from "./app-parts.ts";

/** The same from `src/http/` and from `dist/http/`. */
const BUILT = fileURLToPath(new URL("../../dist/console/", import.meta.url));

/** Nothing inline, nothing from elsewhere, in nobody's frame. */
const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "referrer-policy": "no-referrer",
  "x-frame-options": "DENY",
};
/** Names with a digest of the content. */
const HASHED = /[/\\]assets[/\\]/;
const YEAR_SECONDS = 31_536_000;

/** @param folder of the built pages, which a clone that was never built lacks */
export async function consoleRoutes(app: TypedApp, folder = BUILT): Promise<void> {
  await app.register(async (scope) => {
    scope.addHook("onRoute", (route) => {
      route.config = { ...route.config, access: "public" };
      route.logLevel = "warn";
    });
    scope.get("/console", { schema: { hide: true } }, async (_request, reply) => reply.redirect("/console/"));
    if (!existsSync(folder)) {
      scope.get("/console/*", { schema: { hide: true } }, async () => {
        throw new PrefixdError(
          "not_found",
          "The console is not built: run npm run build, then start the server again.",
        );
      });
      return;
    }
    await scope.register(staticFiles, {
      root: folder,
      prefix: "/console/",
      decorateReply: false,
      cacheControl: false,
      setHeaders: (reply, path) => {
        for (const [name, value] of Object.entries(HEADERS)) reply.header(name, value);
        const hashed = HASHED.test(path.slice(folder.length - 1));
        reply.header("cache-control", hashed ? `public, max-age=${YEAR_SECONDS}, immutable` : "no-cache");
      },
    });
  });
}
