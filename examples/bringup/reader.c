/* Reads an inference-chip image as bring-up firmware would: parse, check, print. C11, libc only; a little-endian machine.
 *
 *   reader IMAGE                         check, and print what the image is for
 *   reader IMAGE CHIP TILE ROW COLUMN    check, and print one cell
 *   reader IMAGE cells                   check, and print every cell, one a line
 *
 * The image may be followed by erased flash (0xFF). Exit code: 0 done, 1 the image is refused, 2 usage.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cimg.h"

static const char *const section_tags[CIMG_SECTIONS] = {
    "IDEN", "META", "NAME", "TEXT", "LAYR", "SEGM", "LINE", "CONV", "TILE",
    "CELL", "REGI", "RECI", "INST", "OPER", "STVE", "STDR", "STRE", "TENS"};
static const char *const use_names[] = {"spare", "use", "park", "faulty", "reference"};

struct image {
    const uint8_t *bytes;
    uint64_t size;
    struct cimg_header header;
    struct cimg_section_entry sections[CIMG_SECTIONS];
};

/* SHA-256 (FIPS 180-4) ------------------------------------------------------------------------------------------------ */

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotated(uint32_t x, unsigned n) { return (x >> n) | (x << (32 - n)); }

static void sha256_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64], v[8];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)p[4 * t] << 24 | (uint32_t)p[4 * t + 1] << 16 | (uint32_t)p[4 * t + 2] << 8 | p[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotated(w[t - 15], 7) ^ rotated(w[t - 15], 18) ^ (w[t - 15] >> 3);
        uint32_t s1 = rotated(w[t - 2], 17) ^ rotated(w[t - 2], 19) ^ (w[t - 2] >> 10);
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    memcpy(v, h, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t s1 = rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25);
        uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + round_constants[t] + w[t];
        uint32_t s0 = rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22);
        uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int k = 0; k < 8; k++)
        h[k] += v[k];
}

static void sha256(const uint8_t *p, uint64_t size, uint8_t digest[32])
{
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t last[128] = {0};
    uint64_t whole = size / 64, rest = size % 64, padded = rest < 56 ? 64 : 128;
    for (uint64_t k = 0; k < whole; k++)
        sha256_block(h, p + 64 * k);
    memcpy(last, p + 64 * whole, rest);
    last[rest] = 0x80;
    for (int k = 0; k < 8; k++)
        last[padded - 1 - k] = (uint8_t)(size * 8 >> 8 * k);
    for (uint64_t k = 0; k < padded; k += 64)
        sha256_block(h, last + k);
    for (int k = 0; k < 32; k++)
        digest[k] = (uint8_t)(h[k / 4] >> (24 - 8 * (k % 4)));
}

/* CRC-32 (IEEE 802.3) ------------------------------------------------------------------------------------------------- */

static uint32_t crc32(const uint8_t *p, uint64_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
    while (size--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* The image ------------------------------------------------------------------------------------------------------------ */

/* Sections start at multiples of 64, so their records are aligned if the image is. */
static const void *section(const struct image *im, enum cimg_section which) { return im->bytes + im->sections[which].offset; }
static uint64_t records(const struct image *im, enum cimg_section which) { return im->sections[which].records; }

static const char *check_sections(struct image *im, uint64_t end)
{
    static const uint32_t sizes[CIMG_SECTIONS] = {
        sizeof(struct cimg_identity), 1, sizeof(struct cimg_name), 1, sizeof(struct cimg_layer), sizeof(struct cimg_segment), 4,
        sizeof(struct cimg_converter), sizeof(struct cimg_tile), sizeof(struct cimg_cell), sizeof(struct cimg_setting),
        sizeof(struct cimg_recipe), sizeof(struct cimg_instruction), 4, sizeof(struct cimg_vector), sizeof(struct cimg_drive),
        sizeof(struct cimg_read), 1};
    uint64_t at = (sizeof im->header + sizeof im->sections + 63) / 64 * 64;
    for (unsigned k = 0; k < CIMG_SECTIONS; k++) {
        const struct cimg_section_entry *s = &im->sections[k];
        if (memcmp(s->tag, section_tags[k], 4) || s->record_bytes != sizes[k] || s->offset != at)
            return "a section is not where it must be";
        if (s->bytes != (uint64_t)s->records * s->record_bytes || s->bytes > end || at > end - s->bytes)
            return "a section runs past the end";
        if (crc32(im->bytes + at, s->bytes) != s->crc32)
            return "a section's CRC-32 does not fit";
        at += (s->bytes + 63) / 64 * 64;
    }
    return at == end ? NULL : "bytes that belong to no section";
}

static const char *check_tiles(const struct image *im)
{
    const struct cimg_tile *tiles = section(im, CIMG_SECTION_TILE);
    const uint8_t *cells = section(im, CIMG_SECTION_CELL);
    uint64_t all = records(im, CIMG_SECTION_CELL);
    for (uint64_t k = 0; k < records(im, CIMG_SECTION_TILE); k++) {
        uint64_t count = (uint64_t)tiles[k].rows * tiles[k].columns;
        if (count > all || tiles[k].first_cell > all - count)
            return "a tile lies outside the cells";
        if (crc32(cells + tiles[k].first_cell * sizeof(struct cimg_cell), count * sizeof(struct cimg_cell)) != tiles[k].crc32)
            return "a tile's CRC-32 does not fit";
    }
    return NULL;
}

/* NULL if the image is sound, else what is wrong. */
static const char *open_image(struct image *im, const uint8_t *bytes, uint64_t size)
{
    uint8_t digest[CIMG_HASH_BYTES];
    uint64_t tail = CIMG_HASH_BYTES, front = sizeof im->header + sizeof im->sections;
    if (size < front + tail)
        return "too short for an image";
    memcpy(&im->header, bytes, sizeof im->header);
    memcpy(im->sections, bytes + sizeof im->header, sizeof im->sections);
    const struct cimg_header *h = &im->header;
    if (memcmp(h->magic, cimg_magic, sizeof cimg_magic))
        return "not an inference-chip image";
    if (h->version_major != CIMG_VERSION_MAJOR || h->version_minor != CIMG_VERSION_MINOR)
        return "another format version";
    if (h->header_bytes != sizeof *h || h->sections != CIMG_SECTIONS || h->alignment != 64 || (h->flags & ~CIMG_SIGNED))
        return "the header is not that of this version";
    tail += h->flags & CIMG_SIGNED ? sizeof(struct cimg_signature) : 0;
    if (h->file_bytes > size || h->file_bytes < front + tail)
        return "truncated";
    for (uint64_t k = h->file_bytes; k < size; k++)
        if (bytes[k] != 0xFF)
            return "something follows the image";
    im->bytes = bytes;
    im->size = h->file_bytes;
    sha256(bytes, im->size - tail, digest);
    if (memcmp(digest, bytes + im->size - tail, sizeof digest))
        return "the SHA-256 does not fit the contents";
    const char *wrong = check_sections(im, im->size - tail);
    return wrong ? wrong : check_tiles(im);
}

/* Output --------------------------------------------------------------------------------------------------------------- */

static void print_cell(const struct cimg_tile *t, const struct cimg_cell *cells, uint32_t row, uint32_t column)
{
    const struct cimg_cell *c = &cells[t->first_cell + (uint64_t)row * t->columns + column];
    const char *use = c->use < sizeof use_names / sizeof use_names[0] ? use_names[c->use] : "?";
    printf("%" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %s %" PRId32 " %" PRId32 " %" PRId32 " %.17g\n", t->chip, t->tile,
           row, column, use, c->code, c->low, c->high, t->base_s + c->code * t->step_s);
}

static int print_cells(const struct image *im, const uint32_t wanted[4])
{
    const struct cimg_tile *tiles = section(im, CIMG_SECTION_TILE);
    const struct cimg_cell *cells = section(im, CIMG_SECTION_CELL);
    int found = 0;
    for (uint64_t k = 0; k < records(im, CIMG_SECTION_TILE); k++) {
        const struct cimg_tile *t = &tiles[k];
        if (!wanted) {
            for (uint32_t row = 0; row < t->rows; row++)
                for (uint32_t column = 0; column < t->columns; column++)
                    print_cell(t, cells, row, column);
            found = 1;
        } else if (t->chip == wanted[0] && t->tile == wanted[1] && wanted[2] < t->rows && wanted[3] < t->columns) {
            print_cell(t, cells, wanted[2], wanted[3]);
            found = 1;
        }
    }
    return found;
}

static void print_summary(const struct image *im)
{
    const struct cimg_identity *id = section(im, CIMG_SECTION_IDEN);
    const struct cimg_layer *layers = section(im, CIMG_SECTION_LAYR);
    const struct cimg_name *names = section(im, CIMG_SECTION_NAME);
    const char *text = section(im, CIMG_SECTION_TEXT);
    printf("target %.*s\n", (int)sizeof id->target_name, (const char *)id->target_name);
    printf("die %.*s\n", (int)sizeof id->die_id, id->die_id[0] ? (const char *)id->die_id : "any");
    printf("bytes %" PRIu64 "\ntiles %" PRIu64 "\n", im->size, records(im, CIMG_SECTION_TILE));
    for (uint64_t k = 0; k < records(im, CIMG_SECTION_LAYR); k++) {
        const struct cimg_name *n = &names[layers[k].name < records(im, CIMG_SECTION_NAME) ? layers[k].name : 0];
        if ((uint64_t)n->offset + n->bytes <= records(im, CIMG_SECTION_TEXT))
            printf("layer %.*s rows %" PRIu32 " columns %" PRIu32 " segments %" PRIu32 "\n", (int)n->bytes, text + n->offset,
                   layers[k].rows, layers[k].columns, layers[k].segments);
    }
}

static uint8_t *read_file(const char *path, uint64_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        return NULL;
    long end = ftell(file);
    rewind(file);
    uint8_t *bytes = end < 0 ? NULL : aligned_alloc(64, ((size_t)end + 64) / 64 * 64);
    if (bytes && fread(bytes, 1, (size_t)end, file) != (size_t)end) {
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    *size = (uint64_t)end;
    return bytes;
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 6 && !(argc == 3 && !strcmp(argv[2], "cells"))) {
        fprintf(stderr, "usage: reader IMAGE [CHIP TILE ROW COLUMN | cells]\n");
        return 2;
    }
    uint64_t size = 0;
    uint8_t *bytes = read_file(argv[1], &size);
    if (!bytes) {
        fprintf(stderr, "%s: cannot read\n", argv[1]);
        return 2;
    }
    struct image im;
    const char *wrong = open_image(&im, bytes, size);
    int code = 0;
    if (wrong) {
        fprintf(stderr, "%s: refused: %s\n", argv[1], wrong);
        code = 1;
    } else if (argc == 2) {
        print_summary(&im);
    } else {
        uint32_t wanted[4] = {0};
        for (int k = 0; argc == 6 && k < 4; k++)
            wanted[k] = (uint32_t)strtoul(argv[k + 2], NULL, 10);
        if (!print_cells(&im, argc == 6 ? wanted : NULL)) {
            fprintf(stderr, "%s: no such cell\n", argv[1]);
            code = 2;
        }
    }
    free(bytes);
    return code;
}
