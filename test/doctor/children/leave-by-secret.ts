/** Ends with 4 where it was given the server's secrets, else with 3. */
process.exit(process.env["PREFIXD_ADMIN_KEY"] === undefined ? 3 : 4);
