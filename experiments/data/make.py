#!/usr/bin/env python3
"""Makes the data of experiments/{table,series,photos} beside this file, with nothing but Python's standard library.

All are drawn from the formulas below with a fixed seed; README.md says them in words.
"""
import math
import random
import struct
import zlib
from pathlib import Path

HERE = Path(__file__).parent


def shells(draw):
    """450 shells of three kinds, 50, 35 and 15 % of them: kind, length, width, mass, ridges."""
    kinds = [  # name, share, mean and standard deviation of the length, width over length, density, ridges
        ("cockle", 0.50, 34.0, 4.0, 0.92, 0.34, 24),
        ("mussel", 0.35, 58.0, 8.0, 0.46, 0.22, 0),
        ("scallop", 0.15, 82.0, 7.0, 1.04, 0.16, 16),
    ]
    rows = []
    for name, share, mean, deviation, ratio, density, ridges in kinds:
        for _ in range(round(450 * share)):
            length = draw.gauss(mean, deviation)
            width = length * ratio * math.exp(draw.gauss(0, 0.05))
            mass = density * (length * width / 100) ** 1.5 * math.exp(draw.gauss(0, 0.15))
            count = max(0, round(draw.gauss(ridges, 1.5))) if ridges else 0
            rows.append(f"{name},{length:.1f},{width:.1f},{mass:.2f},{count}")
    draw.shuffle(rows)
    (HERE / "shells.csv").write_text("kind,length_mm,width_mm,mass_g,ridges\n" + "\n".join(rows) + "\n")


def oscillations(draw):
    """300 damped oscillations on a trend, 64 positions t = 0, 1/64, ... each."""
    values = []
    for _ in range(300):
        height, fading = draw.uniform(0.5, 1.5), draw.uniform(0.2, 0.6)
        frequency, phase, trend = draw.uniform(3, 6), draw.uniform(0, math.tau), draw.gauss(0, 0.5)
        for i in range(64):
            t = i / 64
            swing = height * math.exp(-t / fading) * math.cos(math.tau * frequency * t + phase)
            values.append(swing + trend * t + draw.gauss(0, 0.02))
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (300, 64, 1), }"
    head += " " * (-(10 + len(head) + 1) % 64) + "\n"
    packed = struct.pack(f"<{len(values)}f", *values)
    (HERE / "oscillations.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + packed)


def shapes(draw):
    """30 pictures each of disks, squares and triangles: 32 x 32, one color on another, the edges smooth."""

    def inside(kind, x, y):
        if kind == "disk":
            return math.hypot(x, y) < 1
        if kind == "square":
            return max(abs(x), abs(y)) < 0.89
        return max(y, abs(x) * math.sqrt(0.75) - 0.5 * y) < 0.58

    def color(bright):
        hue, (low, high) = draw.random() * 6, ((0.45, 0.95) if bright else (0.05, 0.3))
        return [low + (high - low) * min(1, max(0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]

    for kind in ("disk", "square", "triangle"):
        folder = HERE / "shapes" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(30):
            front, back = color(True), color(False)
            radius, angle = draw.uniform(7, 12), draw.uniform(-0.3, 0.3)
            left, top = (draw.uniform(radius + 2, 30 - radius) for _ in range(2))
            cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
            rows = bytearray()
            for y in range(32):
                rows.append(0)
                for x in range(32):
                    points = [(x + (i + 0.5) / 4 - left, y + (j + 0.5) / 4 - top) for i in range(4) for j in range(4)]
                    part = sum(inside(kind, cos * u + sin * v, cos * v - sin * u) for u, v in points) / 16
                    rows += bytes(round(255 * (part * f + (1 - part) * b)) for f, b in zip(front, back))
            (folder / f"{number:02}.png").write_bytes(png(32, rows))


def png(side, rows):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


for make in (shells, oscillations, shapes):
    make(random.Random(0))
