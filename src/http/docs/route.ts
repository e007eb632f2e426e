import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import swaggerUi from "@fastify/swagger-ui";
import type { TypedApp } from "../app-parts.ts";
import { openapiDocument, openapiYaml } from "./openapi.ts";

/** The API description and its pages; everything they load comes from this server. */
export async function docsRoutes(app: TypedApp): Promise<void> {
  const description = describedOnce(app);
  const sendYaml = async (_request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> =>
    reply.type("application/yaml; charset=utf-8").send(description().yaml);
  const sendJson = async (_request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> =>
    reply.type("application/json; charset=utf-8").send(description().json);
  await app.register(async (scope) => {
    scope.addHook("onRoute", (route) => {
      route.config = { ...route.config, access: "public" };
      // The plugin would generate them for each request, which anybody may send.
      if (route.url === "/docs/yaml") route.handler = sendYaml;
      if (route.url === "/docs/json") route.handler = sendJson;
    });
    // A server without keys would carry out what somebody is lured into clicking.
    scope.addHook("onRequest", async (_request, reply) => {
      reply.header("x-frame-options", "DENY").header("content-security-policy", "frame-ancestors 'none'");
    });
    await registerPages(scope);
  });
  const config = { access: "public" } as const;
  app.get("/openapi.yaml", { config, logLevel: "warn", schema: { hide: true } }, sendYaml);
  app.get("/openapi.json", { config, logLevel: "warn", schema: { hide: true } }, sendJson);
  app.get("/", { config, logLevel: "warn", schema: { hide: true } }, async (_request, reply) =>
    reply.redirect("/docs/"),
  );
}

/** Generates the description on first use, as bytes: it takes a tenth of a second, and keeps a megabyte. */
function describedOnce(app: TypedApp): () => { readonly yaml: Buffer; readonly json: Buffer } {
  let made: { readonly yaml: Buffer; readonly json: Buffer } | undefined;
  return () => {
    if (made !== undefined) return made;
    const document = openapiDocument(app);
    return (made = { yaml: Buffer.from(openapiYaml(document)), json: Buffer.from(JSON.stringify(document)) });
  };
}

async function registerPages(scope: FastifyInstance): Promise<void> {
  await scope.register(swaggerUi, {
    routePrefix: "/docs",
    logLevel: "warn",
    // The top bar only offers to load other descriptions.
    theme: { title: "prefixd", css: [{ filename: "prefixd.css", content: ".swagger-ui .topbar { display: none }" }] },
    uiConfig: { validatorUrl: null, docExpansion: "list", tryItOutEnabled: true },
  });
}
