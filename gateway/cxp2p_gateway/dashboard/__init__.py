"""The gateway's pages for people, made on the server: only live numbers and the playground need a script."""
