"""A TCP proxy that adds latency: delay.py LISTEN CONNECT MILLISECONDS

Whatever comes in on one side leaves on the other half the milliseconds later, so that a round trip takes that much
more; opening a connection takes one, too. Nothing is slowed down beyond that: the data of a connection flow at
full speed, delayed. Standard library only.
"""
import asyncio
import socket
import sys
import time

LISTEN, CONNECT, HALF = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 2000
PIECE = 256 << 10
# As much as a long connection has on its way.
MOST = 64


async def carry(reader, writer):
    queue = asyncio.Queue(MOST)

    async def take():
        while piece := await reader.read(PIECE):
            await queue.put((time.monotonic() + HALF, piece))
        await queue.put((time.monotonic() + HALF, None))

    taking = asyncio.create_task(take())
    try:
        while True:
            due, piece = await queue.get()
            await asyncio.sleep(max(0, due - time.monotonic()))
            if piece is None:
                break
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
    except (OSError, RuntimeError):
        writer.close()
    finally:
        taking.cancel()


async def accept(reader, writer):
    await asyncio.sleep(2 * HALF)  # the handshake of TCP
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", CONNECT)
    except OSError:
        writer.close()
        return
    for w in (writer, far_writer):
        w.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer), return_exceptions=True)
    for w in (writer, far_writer):
        w.close()


async def main():
    server = await asyncio.start_server(accept, "127.0.0.1", LISTEN, limit=4 << 20)
    await server.serve_forever()


asyncio.run(main())
