import { form } from "../../support/app.ts";

/** `PUT /prefixes/:id` with files, as a form. */
export const put = (
  id: string,
  files: Parameters<typeof form>[0],
  headers: Record<string, string> = {},
): { method: "PUT"; url: string; payload: Buffer; headers: Record<string, string> } => {
  const { payload, headers: type } = form(files);
  return { method: "PUT", url: `/prefixes/${id}`, payload, headers: { ...type, ...headers } };
};
/** The same with JSON. */
export const putJson = (
  id: string,
  payload: object,
  headers: Record<string, string> = {},
): { method: "PUT"; url: string; payload: object; headers: Record<string, string> } => ({
  method: "PUT",
  url: `/prefixes/${id}`,
  payload,
  headers,
});
