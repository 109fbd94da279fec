"""``python -m crawlers.shop --port N``: the demo shop on 127.0.0.1 until it is interrupted."""

import argparse
import asyncio
import sys

from aiohttp import web

from atlas_model.core.errors import AtlasError
from crawlers.shop.catalogue import load_catalogue
from crawlers.shop.server import make_app

ADDRESS = "127.0.0.1"


async def serve(port: int, *, until_stdin_closes: bool) -> None:
    """Serve on ``port`` (0: any free port); prints the URL to stdout when it listens."""
    runner = web.AppRunner(make_app(load_catalogue()), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, ADDRESS, port)
        await site.start()
        port = runner.addresses[0][1]
        sys.stdout.write(f"http://shop-a.localhost:{port}/ (and shop-b, shop-c)\n")
        sys.stdout.flush()
        if until_stdin_closes:
            await asyncio.to_thread(sys.stdin.read)
        else:
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(prog="python -m crawlers.shop", description="The demo shop, on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when stdin closes, as when the parent process ends"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.port, until_stdin_closes=arguments.until_stdin_closes))
    except KeyboardInterrupt:
        sys.exit(130)
    except AtlasError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"error: port {arguments.port} cannot be used: {error.strerror}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
