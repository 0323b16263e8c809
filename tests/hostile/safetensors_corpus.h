/* Hostile safetensors files, made in memory, and a few odd but valid ones. The ideas come from the
 * format's own list of attacks and from what readers in C are known to get wrong. */
#ifndef LT_TESTS_SAFETENSORS_CORPUS_H
#define LT_TESTS_SAFETENSORS_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct corpus_file {
    const char *name;
    bool valid;
    const char *header;
    size_t header_size; /* 0: strlen */
    size_t body;        /* zero bytes after the header */
} corpus_file;

#define U8_16           "\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16]"
#define WITH_SIZE(text) text, sizeof(text) - 1

static const corpus_file corpus[] = {
    /* odd, but valid */
    {"plain", true, "{\"a\":{" U8_16 "}}", 0, 16},
    {"no tensors", true, "{}", 0, 0},
    {"only metadata", true, "{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0},
    {"spaces around", true, "  {\"a\":{" U8_16 "}}  \n", 0, 16},
    {"empty tensor", true,
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"b\":{" U8_16 "}}", 0, 16},
    {"empty tensor at the end", true,
     "{\"b\":{" U8_16 "},\"a\":{\"dtype\":\"F32\",\"shape\":[4,0,2],\"data_offsets\":[16,16]}}", 0,
     16},
    {"five dimensions", true,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,16],\"data_offsets\":[0,16]}}", 0, 16},
    {"a scalar", true, "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 0, 4},
    {"a field more", true, "{\"a\":{" U8_16 ",\"note\":[1.5,null]}}", 0, 16},
    {"half bytes that add up", true,
     "{\"a\":{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[0,3]}}", 0, 3},

    /* places */
    {"overlap", false,
     "{\"a\":{" U8_16 "},\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}}", 0, 16},
    {"two names for the same bytes", false, "{\"a\":{" U8_16 "},\"b\":{" U8_16 "}}", 0, 16},
    {"a hole", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"U8\","
     "\"shape\":[4],\"data_offsets\":[12,16]}}",
     0, 16},
    {"a hole in front", false, "{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}}",
     0, 16},
    {"an empty tensor inside another", false,
     "{\"a\":{" U8_16 "},\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[8,8]}}", 0, 16},
    {"bytes after the last tensor", false, "{\"a\":{" U8_16 "}}", 0, 17},
    {"bytes and no tensors", false, "{}", 0, 8},
    {"cut short", false, "{\"a\":{" U8_16 "}}", 0, 15},
    {"end before begin", false, "{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[16,8]}}",
     0, 16},
    {"far outside", false,
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[1099511627776,1099511627792]}}", 0,
     16},
    {"three offsets", false, "{\"a\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":[0,16,16]}}",
     0, 16},

    /* sizes */
    {"shape overflows", false,
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, 0},
    {"shape overflows, times zero", false,
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4611686018427387904,0],"
     "\"data_offsets\":[0,0]}}",
     0, 0},
    {"shape beyond 64 bits", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,16]}}", 0, 16},
    {"shape and offsets differ", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[15],\"data_offsets\":[0,16]}}", 0, 16},
    {"a fractional extent", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[16.0],\"data_offsets\":[0,16]}}", 0, 16},
    {"a negative extent", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[-16],\"data_offsets\":[0,16]}}", 0, 16},
    {"two negative extents", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[-4,-4],\"data_offsets\":[0,16]}}", 0, 16},
    {"nine dimensions", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,16],\"data_offsets\":[0,16]}}", 0, 16},
    {"half a byte", false, "{\"a\":{\"dtype\":\"F4\",\"shape\":[5],\"data_offsets\":[0,3]}}", 0, 3},

    /* the JSON */
    {"not JSON", false, "{\"a\":{" U8_16 "}", 0, 16},
    {"an array", false, "[{\"a\":{" U8_16 "}}]", 0, 16},
    {"empty header", false, "", 0, 16},
    {"text after it", false, "{\"a\":{" U8_16 "}}garbage", 0, 16},
    {"duplicate tensor", false,
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},\"a\":{\"dtype\":\"U8\","
     "\"shape\":[8],\"data_offsets\":[8,16]}}",
     0, 16},
    {"duplicate field", false, "{\"a\":{\"dtype\":\"F32\"," U8_16 "}}", 0, 16},
    {"bad UTF-8", false, "{\"\xff\xfe\":{" U8_16 "}}", 0, 16},
    {"raw control character", false, "{\"a\nb\":{" U8_16 "}}", 0, 16},
    {"NUL in a name", false, "{\"a\\u0000b\":{" U8_16 "}}", 0, 16},
    {"raw NUL", false, WITH_SIZE("{\"a\0b\":{" U8_16 "}}"), 16},
    {"NUL after it", false, WITH_SIZE("{\"a\":{" U8_16 "}}\0"), 16},
    {"NaN", false, "{\"a\":{" U8_16 ",\"note\":NaN}}", 0, 16},
    {"empty name", false, "{\"\":{" U8_16 "}}", 0, 16},
    {"unknown dtype", false, "{\"a\":{\"dtype\":\"F33\",\"shape\":[16],\"data_offsets\":[0,16]}}",
     0, 16},
    {"no dtype", false, "{\"a\":{\"shape\":[16],\"data_offsets\":[0,16]}}", 0, 16},
    {"no shape", false, "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,16]}}", 0, 16},
    {"no offsets", false, "{\"a\":{\"dtype\":\"U8\",\"shape\":[16]}}", 0, 16},
    {"entry is a number", false, "{\"a\":1}", 0, 0},
    {"metadata is a number", false, "{\"__metadata__\":1,\"a\":{" U8_16 "}}", 0, 16},
    {"metadata holds a number", false, "{\"__metadata__\":{\"a\":1},\"a\":{" U8_16 "}}", 0, 16},
    {"duplicate metadata", false, "{\"__metadata__\":{},\"__metadata__\":{},\"a\":{" U8_16 "}}", 0,
     16},
};
enum { CORPUS_COUNT = sizeof corpus / sizeof *corpus };

/* The whole file; caller frees. */
static inline unsigned char *corpus_bytes(const corpus_file *file, size_t *size)
{
    size_t header = file->header_size ? file->header_size : strlen(file->header);
    *size = 8 + header + file->body;
    unsigned char *bytes = calloc(*size, 1);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)header >> (8 * i));
    memcpy(bytes + 8, file->header, header);
    return bytes;
}

#endif
