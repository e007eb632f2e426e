import type { FastifyInstance } from "fastify";
import swaggerUi from "@fastify/swagger-ui";
import type { TypedApp } from "../app-parts.ts";
import { openapiDocument, openapiYaml } from "../openapi.ts";

/** The description itself and its pages; everything they load comes from this server. */
export async function docsRoutes(app: TypedApp): Promise<void> {
  await app.register(async (scope) => {
    scope.addHook("onRoute", (route) => {
      route.config = { ...route.config, access: "public" };
    });
    await registerPages(scope, app);
  });
  const config = { access: "public" } as const;
  let yaml: string | undefined;
  app.get("/openapi.yaml", { config, logLevel: "warn", schema: { hide: true } }, async (_request, reply) => reply.type("application/yaml; charset=utf-8").send((yaml ??= openapiYaml(app))));
  app.get("/", { config, logLevel: "warn", schema: { hide: true } }, async (_request, reply) => reply.redirect("/docs/"));
}

async function registerPages(scope: FastifyInstance, app: TypedApp): Promise<void> {
  await scope.register(swaggerUi, {
    routePrefix: "/docs",
    logLevel: "warn",
    // The bar only offers to load other descriptions.
    theme: { title: "prefixd", css: [{ filename: "prefixd.css", content: ".swagger-ui .topbar { display: none }" }] },
    uiConfig: { validatorUrl: null, docExpansion: "list", tryItOutEnabled: true },
    transformSpecificationClone: false,
    transformSpecification: () => openapiDocument(app) as Record<string, never>,
  });
}
