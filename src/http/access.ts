import type { FastifyInstance, FastifyRequest, RouteOptions } from "fastify";
import { PrefixdError } from "../errors.ts";
import { bearerKey, keyLabel } from "../users/api-key.ts";
import type { Authenticator } from "../users/authenticator.ts";
import type { Principal } from "../users/types.ts";

/** Who may use a route. `user`: anybody with a valid key, including the admin's. */
export type Access = "public" | "user" | "admin";

/** A route and its access. */
export interface DeclaredRoute {
  readonly method: string;
  readonly url: string;
  readonly access: Access;
}

declare module "fastify" {
  interface FastifyRequest {
    /** The authenticated sender; absent on public routes. */
    principal: Principal;
  }
  interface FastifyContextConfig {
    access?: Access;
  }
}

/**
 * For a request that has taken long: its key may have been deleted, or its user suspended, since it began.
 * Throws `unauthorized`, `user_suspended`, `store_unavailable`.
 */
export async function refuseRevoked(auth: Authenticator, { headers }: Pick<FastifyRequest, "headers">): Promise<void> {
  await auth.authenticate(headers.authorization);
}

/**
 * Rejects unauthorised requests before reading any of the body, and once more when it has arrived; routes that read it
 * themselves do the latter themselves. Call before adding the routes. Call the returned function after: it lists them
 * all, and throws if one does not declare its access, so that none is open or closed by oversight.
 */
export function guardAccess(app: FastifyInstance, authenticator: Authenticator): () => DeclaredRoute[] {
  const routes: RouteOptions[] = [];
  app.addHook("onRoute", (route) => void routes.push(route));
  app.decorateRequest("principal");
  app.addHook("onRequest", async (request) => {
    // Strangers do not learn which paths exist either.
    const access = request.is404 ? "user" : (request.routeOptions.config.access ?? "admin");
    if (access === "public") return;
    const key = authenticator.keyed ? bearerKey(request.headers.authorization) : undefined;
    // Before it is known whether it is good, so that a refused key is recorded, too.
    if (key !== undefined) request.audit.key_id = keyLabel(key);
    request.principal = await authenticator.authenticate(request.headers.authorization);
    request.audit.user = request.principal.user;
    if (access === "admin" && request.principal.role !== "admin")
      throw new PrefixdError("forbidden", "This needs the admin key.");
  });
  app.addHook("preValidation", async (request) => {
    const isGuarded = request.routeOptions.config.access !== "public" && !request.is404;
    if (isGuarded && request.body !== undefined) await refuseRevoked(authenticator, request);
  });
  return () => {
    const undeclared = routes
      .filter((route) => route.config?.access === undefined)
      .map((route) => `${String(route.method)} ${route.url}`);
    if (undeclared.length > 0) throw new Error(`routes without config.access: ${undeclared.join(", ")}`);
    return routes.flatMap(({ method, url, config }) =>
      [method].flat().map((one) => ({ method: one, url, access: config?.access ?? "admin" })),
    );
  };
}
