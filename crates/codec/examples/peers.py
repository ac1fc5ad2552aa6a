"""Codes raw slices with standard codecs and proves each round trip; called by `compare`.

Usage: peers.py FILE BITS [NAME...]
FILE: u32 slices, rows, columns (little endian), then unsigned 16-bit pixels. Prints one JSON object a codec.
Needs imagecodecs and numpy from PyPI; JPEG-LS by libcharls.so.2 if it is there, as imagecodecs
declares 16 bits to it whatever the true depth.
"""
import ctypes
import functools
import json
import struct
import sys
import time

import imagecodecs
import numpy


class Frame(ctypes.Structure):
    _fields_ = [
        ("w", ctypes.c_uint32),
        ("h", ctypes.c_uint32),
        ("bits", ctypes.c_int32),
        ("components", ctypes.c_int32),
    ]


def checked(code):
    if code != 0:
        raise RuntimeError(f"CharLS error {code}")


def memory(array):
    return array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes)


class CharLS:
    def __init__(self, bits):
        self.bits = bits
        self.lib = ctypes.CDLL("libcharls.so.2")
        self.lib.charls_jpegls_encoder_create.restype = ctypes.c_void_p
        self.lib.charls_jpegls_decoder_create.restype = ctypes.c_void_p

    def encode(self, image):
        lib, size = self.lib, ctypes.c_size_t()
        coder = ctypes.c_void_p(lib.charls_jpegls_encoder_create())
        frame = Frame(image.shape[1], image.shape[0], self.bits, 1)
        out = numpy.empty(image.nbytes * 2 + 4096, numpy.uint8)
        checked(lib.charls_jpegls_encoder_set_frame_info(coder, ctypes.byref(frame)))
        checked(lib.charls_jpegls_encoder_set_destination_buffer(coder, *memory(out)))
        checked(lib.charls_jpegls_encoder_encode_from_buffer(coder, *memory(image), ctypes.c_uint32(0)))
        checked(lib.charls_jpegls_encoder_get_bytes_written(coder, ctypes.byref(size)))
        lib.charls_jpegls_encoder_destroy(coder)
        return out[: size.value].copy()

    def decode(self, data, image):
        lib = self.lib
        coder = ctypes.c_void_p(lib.charls_jpegls_decoder_create())
        out = numpy.empty_like(image)
        checked(lib.charls_jpegls_decoder_set_source_buffer(coder, *memory(data)))
        checked(lib.charls_jpegls_decoder_read_header(coder))
        checked(lib.charls_jpegls_decoder_decode_to_buffer(coder, *memory(out), ctypes.c_uint32(0)))
        lib.charls_jpegls_decoder_destroy(coder)
        return out


def jpeg_2000(image, bits):
    return imagecodecs.jpeg2k_encode(
        image, level=0, reversible=True, codecformat="J2K", bitspersample=bits, numthreads=1
    )


def jpeg_xl(image, bits, effort):
    return imagecodecs.jpegxl_encode(
        image, effort=effort, lossless=True, bitspersample=bits, numthreads=1
    )


def codecs(bits):
    ic = imagecodecs
    try:
        charls = CharLS(bits)
        yield "JPEG-LS", charls.encode, charls.decode, 3
    except OSError:
        yield "JPEG-LS", ic.jpegls_encode, lambda d, i: ic.jpegls_decode(d), 3
    yield "JPEG 2000", lambda i: jpeg_2000(i, bits), lambda d, i: ic.jpeg2k_decode(d), 1
    yield "HTJ2K", lambda i: ic.htj2k_encode(i, reversible=True), lambda d, i: ic.htj2k_decode(d), 1
    for effort in (3, 7, 9):
        encode = functools.partial(jpeg_xl, bits=bits, effort=effort)
        yield f"JPEG XL e{effort}", encode, lambda d, i: ic.jpegxl_decode(d, numthreads=1), 1


def main():
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    bits, wanted = int(sys.argv[2]), sys.argv[3:]
    slices, rows, columns = struct.unpack("<III", data[:12])
    images = numpy.frombuffer(data, "<u2", offset=12).reshape(slices, rows, columns)
    if bits <= 8:
        images = images.astype(numpy.uint8)
    for name, encode, decode, turns in codecs(bits):
        if wanted and name not in wanted:
            continue
        result = {"name": name, "bytes": 0, "encode_s": 0.0, "decode_s": 0.0}
        try:
            for image in images:
                image = numpy.ascontiguousarray(image)
                best = [float("inf")] * 2
                for _ in range(turns):
                    start = time.process_time()
                    coded = encode(image)
                    middle = time.process_time()
                    back = decode(coded, image)
                    end = time.process_time()
                    best = [min(best[0], middle - start), min(best[1], end - middle)]
                assert (numpy.asarray(back).reshape(image.shape) == image).all(), "round trip"
                result["bytes"] += len(coded)
                result["encode_s"] += best[0]
                result["decode_s"] += best[1]
        except Exception as error:  # a peer that cannot do it is told, not hidden
            result = {"name": name, "error": str(error) or type(error).__name__}
        print(json.dumps(result), flush=True)


main()
