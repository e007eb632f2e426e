import type { FastifyRequest } from "fastify";
import { PrefixdError, type ErrorCode } from "../../errors.ts";
import type { ListedPrefix, PrefixKey } from "../../prefixes/store.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, UNREAD_BODY } from "../common-schema.ts";
import { prefixIdOf } from "../prefixes/id.ts";
import { prefixPage } from "../prefixes/list.ts";
import { noted, notedForChange, removePrefix } from "../prefixes/named.ts";
import { openAiErrors } from "./errors.ts";
import { namedBy } from "./model-names.ts";
import {
  DeletedModel,
  MODEL_EXAMPLE,
  ModelCard,
  ModelCards,
  ModelParams,
  ModelsQuery,
  TwoPartParams,
} from "./models-schema.ts";

const ALL: ErrorCode[] = ["unauthorized", "invalid_prefix_id", "invalid_parameter", "store_unavailable"];
const ONE: ErrorCode[] = [...ALL, "prefix_not_found", "base_model_disabled"];
const MOST = 1000;

/** What `model` can be in a request: the prefixes that the user may use, and the base model where it is served. */
export function modelsRoutes(app: TypedApp, parts: AppParts): void {
  const { prefixes, modelName, model, shape } = parts;
  const tags = ["openai"];
  const base: ModelCard = {
    id: modelName,
    object: "model",
    created: unixTime(new Date().toISOString()),
    owned_by: "prefixd",
    root: modelName,
    parent: null,
    max_model_len: shape.positions,
  };

  /** The id by which requests of a user name a prefix. */
  const idFor = (key: PrefixKey, user: string): string => {
    const id = prefixIdOf(key, user);
    return id === modelName ? `${key.user}/${key.name}` : id;
  };
  const cardOf = (prefix: Pick<ListedPrefix, "user" | "name" | "length" | "createdAt">, user: string): ModelCard => ({
    id: idFor(prefix, user),
    object: "model",
    created: unixTime(prefix.createdAt),
    owned_by: prefix.user,
    root: modelName,
    parent: modelName,
    max_model_len: shape.positions - prefix.length,
  });
  const show = async (request: FastifyRequest, name: string): Promise<ModelCard> => {
    const { user } = request.principal;
    const key = await namedBy(name, user, parts);
    if (key !== null) return cardOf(await prefixes.info(noted(request, key), user), user);
    if (!model.allowBaseModel)
      throw new PrefixdError("base_model_disabled", "This server does not serve the bare base model.");
    return base;
  };
  const remove = async (request: FastifyRequest, name: string): Promise<DeletedModel> => {
    const { user } = request.principal;
    const key = await namedBy(name, user, parts);
    if (key === null) throw new PrefixdError("prefix_not_owned", "The base model cannot be deleted.");
    await removePrefix(parts, await notedForChange(request, key, prefixes));
    return { id: idFor(key, user), object: "model", deleted: true };
  };

  app.get(
    "/v1/models",
    {
      config: { access: "user" },
      schema: {
        operationId: "listModels",
        tags,
        summary: "The prefixes you may use, and the base model, as OpenAI's clients list models",
        description: "First the base model, if the server serves it, then one's own prefixes, then those of others.",
        querystring: ModelsQuery,
        response: {
          200: json("One page", ModelCards, { example: { object: "list", data: [MODEL_EXAMPLE], has_more: false } }),
          ...openAiErrors(...ALL, "unknown_field"),
        },
      },
    },
    async (request) => {
      const { limit = MOST, after } = request.query;
      const { user } = request.principal;
      const options = { owner: "all", limit, ...(after === undefined ? {} : { after }) } as const;
      const { prefixes: cards, next } = await prefixPage(prefixes, user, options, (prefix) => cardOf(prefix, user));
      const first = after === undefined && model.allowBaseModel ? [base] : [];
      return { object: "list" as const, data: [...first, ...cards], has_more: next !== null };
    },
  );

  app.get(
    "/v1/models/:model",
    {
      config: { access: "user" },
      schema: {
        operationId: "getModelCard",
        tags,
        summary: "A prefix, or the base model, as OpenAI's clients look at a model",
        description: "The id is what `model` is in a request.",
        params: ModelParams,
        response: { 200: json("The model", ModelCard, { example: MODEL_EXAMPLE }), ...openAiErrors(...ONE) },
      },
    },
    (request) => show(request, request.params.model),
  );
  app.delete(
    "/v1/models/:model",
    {
      config: { access: "user", audit: "prefix.remove" },
      schema: {
        operationId: "deleteModel",
        tags,
        summary: "Remove a prefix, as OpenAI's clients delete a model",
        description: "As `DELETE /prefixes/{id}`: when it has answered, no request uses the prefix any more.",
        params: ModelParams,
        response: {
          200: json("Removed", DeletedModel),
          ...openAiErrors(...ONE, ...UNREAD_BODY, "prefix_not_owned", "store_full"),
        },
      },
    },
    (request) => remove(request, request.params.model),
  );

  // OpenAI's Python client does not escape the slash of an id.
  const schema = { hide: true, params: TwoPartParams };
  app.get("/v1/models/:user/:name", { config: { access: "user" }, schema }, (request) =>
    show(request, twoParts(request.params)),
  );
  app.delete("/v1/models/:user/:name", { config: { access: "user", audit: "prefix.remove" }, schema }, (request) =>
    remove(request, twoParts(request.params)),
  );
}

const twoParts = ({ user, name }: { user: string; name: string }): string => `${user}/${name}`;

const unixTime = (iso: string): number => Math.floor(Date.parse(iso) / 1000);
