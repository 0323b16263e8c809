/* Hostile GGUF files, byte by byte, and a few odd but valid ones. The ideas come from the format's
 * rules and from what readers in C are known to get wrong. */
#ifndef LT_TESTS_GGUF_CORPUS_H
#define LT_TESTS_GGUF_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct corpus_file {
    const char *name;
    bool valid;
    const char *bytes;
    size_t size;
    size_t body; /* zero bytes behind, after padding to 32 */
} corpus_file;

/* Little-endian numbers whose upper bytes are 0; the largest; text with its length. */
#define U32(byte)       byte "\0\0\0"
#define U64(byte)       byte "\0\0\0\0\0\0\0"
#define HUGE64          "\xff\xff\xff\xff\xff\xff\xff\xff"
#define STR(size, text) U64(size) text

#define HEAD(tensors, keys) "GGUF" U32("\3") U64(tensors) U64(keys)
/* f32 [8]: 32 bytes */
#define VECTOR(name, offset) STR("\1", name) U32("\1") U64("\10") U32("\0") U64(offset)
#define KEY_U32(key, value)  STR("\3", key) U32("\4") U32(value)
#define ALIGNMENT(value)     STR("\21", "general.alignment") U32("\4") value

#define FILE_OF(bytes) bytes, sizeof(bytes) - 1

static const corpus_file corpus[] = {
    /* odd, but valid */
    {"two tensors", true, FILE_OF(HEAD("\2", "\0") VECTOR("a", "\0") VECTOR("b", "\40")), 64},
    {"nothing at all", true, FILE_OF(HEAD("\0", "\0")), 0},
    {"keys and no tensors", true, FILE_OF(HEAD("\0", "\1") KEY_U32("k.a", "\1")), 0},
    {"version 2", true, FILE_OF("GGUF" U32("\2") U64("\1") U64("\0") VECTOR("a", "\0")), 32},
    {"tensors in another order", true,
     FILE_OF(HEAD("\2", "\0") VECTOR("a", "\40") VECTOR("b", "\0")), 64},
    {"a hole between tensors", true,
     FILE_OF(HEAD("\2", "\0") VECTOR("a", "\0") VECTOR("b", "\100")), 96},
    {"bytes behind the last tensor", true, FILE_OF(HEAD("\1", "\0") VECTOR("a", "\0")), 77},
    {"an empty array", true,
     FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\11") U32("\4") U64("\0")), 0},
    {"an empty string", true, FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\10") U64("\0")), 0},
    {"a type that ggml may have", true,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\1") U64("\10") U32("\77") U64("\0")), 32},
    {"alignment 64", true, FILE_OF(HEAD("\0", "\1") ALIGNMENT(U32("\100"))), 0},

    /* the beginning */
    {"another magic", false, FILE_OF("GGML" U32("\3") U64("\0") U64("\0")), 0},
    {"version 1", false, FILE_OF("GGUF" U32("\1") U32("\0") U32("\0")), 16},
    {"version 4", false, FILE_OF("GGUF" U32("\4") U64("\0") U64("\0")), 0},
    {"big-endian", false, FILE_OF("GGUF\0\0\0\3" U64("\0") U64("\0")), 0},
    {"tensors beyond any file", false, FILE_OF("GGUF" U32("\3") HUGE64 U64("\0")), 64},
    {"keys beyond any file", false, FILE_OF("GGUF" U32("\3") U64("\0") HUGE64), 64},
    {"more tensors than there are", false, FILE_OF(HEAD("\3", "\0") VECTOR("a", "\0")), 32},

    /* keys */
    {"a key that ends nowhere", false, FILE_OF(HEAD("\0", "\1") HUGE64 "key"), 32},
    {"an empty key", false, FILE_OF(HEAD("\0", "\1") U64("\0") U32("\4") U32("\0")), 0},
    {"a NUL in a key", false, FILE_OF(HEAD("\0", "\1") STR("\3", "a\0b") U32("\4") U32("\0")), 0},
    {"a key twice", false, FILE_OF(HEAD("\0", "\2") KEY_U32("k.a", "\1") KEY_U32("k.a", "\1")), 0},
    {"a value type that is not", false, FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\15")), 32},
    {"a bool of 2", false, FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\7") "\2"), 0},
    {"a string that ends nowhere", false,
     FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\10") HUGE64), 32},
    {"an array that ends nowhere", false,
     FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\11") U32("\14") HUGE64), 32},
    {"an array whose size overflows", false,
     FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\11") U32("\14") "\1\0\0\0\0\0\0\x20"), 32},
    {"strings that end nowhere", false,
     FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\11") U32("\10") HUGE64), 32},
    {"an array of arrays", false,
     FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\11") U32("\11") U64("\0")), 32},
    {"an array of nothing", false,
     FILE_OF(HEAD("\0", "\1") STR("\1", "k") U32("\11") U32("\15") U64("\0")), 32},
    {"an alignment of 0", false, FILE_OF(HEAD("\0", "\1") ALIGNMENT(U32("\0"))), 0},
    {"an alignment of 24", false, FILE_OF(HEAD("\0", "\1") ALIGNMENT(U32("\30"))), 0},
    {"an alignment of 2^31", false, FILE_OF(HEAD("\0", "\1") ALIGNMENT("\0\0\0\x80")), 0},
    {"an alignment that is text", false,
     FILE_OF(HEAD("\0", "\1") STR("\21", "general.alignment") U32("\10") U64("\0")), 0},

    /* tensors */
    {"an empty name", false,
     FILE_OF(HEAD("\1", "\0") U64("\0") U32("\1") U64("\10") U32("\0") U64("\0")), 32},
    {"a name of 64 bytes", false,
     FILE_OF(HEAD("\1", "\0") STR("\100", "0123456789abcdef0123456789abcdef0123456789abcdef"
                                          "0123456789abcdef") U32("\1") U64("\10") U32("\0")
                 U64("\0")),
     32},
    {"a NUL in a name", false,
     FILE_OF(HEAD("\1", "\0") STR("\3", "a\0b") U32("\1") U64("\10") U32("\0") U64("\0")), 32},
    {"a name twice", false, FILE_OF(HEAD("\2", "\0") VECTOR("a", "\0") VECTOR("a", "\40")), 64},
    {"no dimensions", false, FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\0") U32("\0") U64("\0")),
     32},
    {"five dimensions", false,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\5") U64("\1") U64("\1") U64("\1") U64("\1")
                 U64("\10") U32("\0") U64("\0")),
     32},
    {"a dimension of 0", false,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\1") U64("\0") U32("\0") U64("\0")), 32},
    {"a dimension beyond any file", false,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\1") HUGE64 U32("\0") U64("\0")), 32},
    {"dimensions that overflow", false,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\2") "\0\0\0\0\1\0\0\0"
                                                       "\0\0\0\0\1\0\0\0" U32("\0") U64("\0")),
     32},
    {"a size that overflows", false,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\2") "\0\0\0\x80\0\0\0\0"
                                                       "\0\0\0\x80\0\0\0\0" U32("\0") U64("\0")),
     32},
    {"the same place for two of unknown type", false,
     FILE_OF(HEAD("\2", "\0") STR("\1", "a") U32("\1") U64("\10") U32("\77") U64("\0")
                 STR("\1", "b") U32("\1") U64("\10") U32("\77") U64("\0")),
     32},
    {"half a block", false,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\1") U64("\20") U32("\10") U64("\0")), 64},
    {"an offset out of line", false, FILE_OF(HEAD("\1", "\0") VECTOR("a", "\4")), 64},
    {"an offset beyond any file", false,
     FILE_OF(HEAD("\1", "\0") STR("\1", "a") U32("\1") U64("\10")
                 U32("\0") "\340\xff\xff\xff\xff\xff\xff\xff"),
     32},
    {"an offset out of the wider line", false,
     FILE_OF(HEAD("\1", "\1") ALIGNMENT(U32("\100")) VECTOR("a", "\40")), 96},
    {"the same bytes for two", false, FILE_OF(HEAD("\2", "\0") VECTOR("a", "\0") VECTOR("b", "\0")),
     64},
    {"overlap", false,
     FILE_OF(HEAD("\2", "\0") STR("\1", "a") U32("\1") U64("\20") U32("\0") U64("\0")
                 VECTOR("b", "\40")),
     96},
    {"cut short", false, FILE_OF(HEAD("\2", "\0") VECTOR("a", "\0") VECTOR("b", "\40")), 63},
    {"no data", false, FILE_OF(HEAD("\1", "\0") VECTOR("a", "\0")), 0},
};

enum { CORPUS_COUNT = sizeof corpus / sizeof corpus[0] };

/* The file's bytes, in a block of their own so that a read beyond is seen; the caller frees them.
 */
static inline unsigned char *corpus_bytes(const corpus_file *file, size_t *size)
{
    size_t padded = file->body > 0 ? (file->size + 31) / 32 * 32 : file->size;
    *size = padded + file->body;
    unsigned char *bytes = calloc(*size + (*size == 0), 1);
    if (bytes) memcpy(bytes, file->bytes, file->size);
    return bytes;
}

#endif
