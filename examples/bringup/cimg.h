/* Inference-chip image, format version 1.0: little-endian, packed; see docs/image-format.md. Made by cimc. */
#ifndef CIMG_H
#define CIMG_H
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define CIMG_VERSION_MAJOR 1u
#define CIMG_VERSION_MINOR 0u
#define CIMG_SECTIONS 18u
#define CIMG_HASH_BYTES 32u
#define CIMG_SIGNED 1u
#define CIMG_NONE 0xFFFFFFFFu
#define CIMG_NO_LOW INT32_MIN
#define CIMG_NO_HIGH INT32_MAX
static const uint8_t cimg_magic[8] = {0x89, 0x43, 0x49, 0x4d, 0x47, 0x0d, 0x0a, 0x1a};

enum cimg_section {
    CIMG_SECTION_IDEN,
    CIMG_SECTION_META,
    CIMG_SECTION_NAME,
    CIMG_SECTION_TEXT,
    CIMG_SECTION_LAYR,
    CIMG_SECTION_SEGM,
    CIMG_SECTION_LINE,
    CIMG_SECTION_CONV,
    CIMG_SECTION_TILE,
    CIMG_SECTION_CELL,
    CIMG_SECTION_REGI,
    CIMG_SECTION_RECI,
    CIMG_SECTION_INST,
    CIMG_SECTION_OPER,
    CIMG_SECTION_STVE,
    CIMG_SECTION_STDR,
    CIMG_SECTION_STRE,
    CIMG_SECTION_TENS,
};
enum cimg_use {
    CIMG_USE_SPARE,
    CIMG_USE_USE,
    CIMG_USE_PARK,
    CIMG_USE_FAULTY,
    CIMG_USE_REFERENCE,
};
enum cimg_opcode {
    CIMG_OPCODE_END,
    CIMG_OPCODE_INPUT,
    CIMG_OPCODE_DIGITAL,
    CIMG_OPCODE_VMM,
    CIMG_OPCODE_BARRIER,
    CIMG_OPCODE_OUTPUT,
};
enum cimg_register {
    CIMG_REGISTER_ARRAY_ROWS,
    CIMG_REGISTER_ARRAY_COLUMNS,
    CIMG_REGISTER_ARRAY_UNIT_COLUMN,
    CIMG_REGISTER_DEVICE_G_MIN_US,
    CIMG_REGISTER_DEVICE_G_MAX_US,
    CIMG_REGISTER_DEVICE_LEVELS,
    CIMG_REGISTER_DEVICE_READ_VOLTAGE_V,
    CIMG_REGISTER_WEIGHTS_BITS,
    CIMG_REGISTER_WEIGHTS_CELLS,
    CIMG_REGISTER_DAC_BITS,
    CIMG_REGISTER_ADC_BITS,
    CIMG_REGISTER_LAYER_INPUT_GAIN,
    CIMG_REGISTER_LAYER_INPUT_SIGNED,
    CIMG_REGISTER_LAYER_ADC_RANGE_UA,
};

#pragma pack(push, 1)
struct cimg_header {
    uint8_t magic[8];
    uint16_t version_major;
    uint16_t version_minor;
    uint32_t header_bytes;
    uint64_t file_bytes;
    uint32_t sections;
    uint32_t alignment;
    uint32_t flags;
    uint32_t crc32;
    uint8_t reserved[24];
};
static_assert(sizeof(struct cimg_header) == 64, "cimg_header");
static_assert(offsetof(struct cimg_header, magic) == 0, "cimg_header.magic");
static_assert(offsetof(struct cimg_header, version_major) == 8, "cimg_header.version_major");
static_assert(offsetof(struct cimg_header, version_minor) == 10, "cimg_header.version_minor");
static_assert(offsetof(struct cimg_header, header_bytes) == 12, "cimg_header.header_bytes");
static_assert(offsetof(struct cimg_header, file_bytes) == 16, "cimg_header.file_bytes");
static_assert(offsetof(struct cimg_header, sections) == 24, "cimg_header.sections");
static_assert(offsetof(struct cimg_header, alignment) == 28, "cimg_header.alignment");
static_assert(offsetof(struct cimg_header, flags) == 32, "cimg_header.flags");
static_assert(offsetof(struct cimg_header, crc32) == 36, "cimg_header.crc32");
static_assert(offsetof(struct cimg_header, reserved) == 40, "cimg_header.reserved");

struct cimg_section_entry {
    uint8_t tag[4];
    uint32_t record_bytes;
    uint64_t offset;
    uint64_t bytes;
    uint32_t records;
    uint32_t crc32;
};
static_assert(sizeof(struct cimg_section_entry) == 32, "cimg_section_entry");
static_assert(offsetof(struct cimg_section_entry, tag) == 0, "cimg_section_entry.tag");
static_assert(offsetof(struct cimg_section_entry, record_bytes) == 4, "cimg_section_entry.record_bytes");
static_assert(offsetof(struct cimg_section_entry, offset) == 8, "cimg_section_entry.offset");
static_assert(offsetof(struct cimg_section_entry, bytes) == 16, "cimg_section_entry.bytes");
static_assert(offsetof(struct cimg_section_entry, records) == 24, "cimg_section_entry.records");
static_assert(offsetof(struct cimg_section_entry, crc32) == 28, "cimg_section_entry.crc32");

struct cimg_signature {
    uint8_t public_key[32];
    uint8_t signature[64];
    uint32_t crc32;
    uint8_t reserved[28];
};
static_assert(sizeof(struct cimg_signature) == 128, "cimg_signature");
static_assert(offsetof(struct cimg_signature, public_key) == 0, "cimg_signature.public_key");
static_assert(offsetof(struct cimg_signature, signature) == 32, "cimg_signature.signature");
static_assert(offsetof(struct cimg_signature, crc32) == 96, "cimg_signature.crc32");
static_assert(offsetof(struct cimg_signature, reserved) == 100, "cimg_signature.reserved");

struct cimg_identity {
    uint8_t target_sha256[32];
    uint8_t platform_sha256[32];
    uint8_t model_sha256[32];
    uint8_t fault_map_sha256[32];
    uint32_t has_fault_map;
    uint32_t source;
    uint64_t seed;
    uint8_t target_name[112];
    uint8_t die_id[64];
    uint8_t compiler[32];
    uint8_t reserved[32];
};
static_assert(sizeof(struct cimg_identity) == 384, "cimg_identity");
static_assert(offsetof(struct cimg_identity, target_sha256) == 0, "cimg_identity.target_sha256");
static_assert(offsetof(struct cimg_identity, platform_sha256) == 32, "cimg_identity.platform_sha256");
static_assert(offsetof(struct cimg_identity, model_sha256) == 64, "cimg_identity.model_sha256");
static_assert(offsetof(struct cimg_identity, fault_map_sha256) == 96, "cimg_identity.fault_map_sha256");
static_assert(offsetof(struct cimg_identity, has_fault_map) == 128, "cimg_identity.has_fault_map");
static_assert(offsetof(struct cimg_identity, source) == 132, "cimg_identity.source");
static_assert(offsetof(struct cimg_identity, seed) == 136, "cimg_identity.seed");
static_assert(offsetof(struct cimg_identity, target_name) == 144, "cimg_identity.target_name");
static_assert(offsetof(struct cimg_identity, die_id) == 256, "cimg_identity.die_id");
static_assert(offsetof(struct cimg_identity, compiler) == 320, "cimg_identity.compiler");
static_assert(offsetof(struct cimg_identity, reserved) == 352, "cimg_identity.reserved");

struct cimg_name {
    uint32_t offset;
    uint32_t bytes;
};
static_assert(sizeof(struct cimg_name) == 8, "cimg_name");
static_assert(offsetof(struct cimg_name, offset) == 0, "cimg_name.offset");
static_assert(offsetof(struct cimg_name, bytes) == 4, "cimg_name.bytes");

struct cimg_layer {
    uint32_t name;
    uint32_t groups;
    uint32_t rows;
    uint32_t columns;
    uint32_t planes;
    uint32_t row_slices;
    uint32_t column_tiles;
    uint32_t copies;
    uint32_t first_segment;
    uint32_t segments;
    uint32_t input_signed;
    uint32_t row_repeats;
    double input_gain;
    double input_full_scale;
    double adc_range_a;
    uint32_t column_repeats;
    uint32_t repeated_reads;
};
static_assert(sizeof(struct cimg_layer) == 80, "cimg_layer");
static_assert(offsetof(struct cimg_layer, name) == 0, "cimg_layer.name");
static_assert(offsetof(struct cimg_layer, groups) == 4, "cimg_layer.groups");
static_assert(offsetof(struct cimg_layer, rows) == 8, "cimg_layer.rows");
static_assert(offsetof(struct cimg_layer, columns) == 12, "cimg_layer.columns");
static_assert(offsetof(struct cimg_layer, planes) == 16, "cimg_layer.planes");
static_assert(offsetof(struct cimg_layer, row_slices) == 20, "cimg_layer.row_slices");
static_assert(offsetof(struct cimg_layer, column_tiles) == 24, "cimg_layer.column_tiles");
static_assert(offsetof(struct cimg_layer, copies) == 28, "cimg_layer.copies");
static_assert(offsetof(struct cimg_layer, first_segment) == 32, "cimg_layer.first_segment");
static_assert(offsetof(struct cimg_layer, segments) == 36, "cimg_layer.segments");
static_assert(offsetof(struct cimg_layer, input_signed) == 40, "cimg_layer.input_signed");
static_assert(offsetof(struct cimg_layer, row_repeats) == 44, "cimg_layer.row_repeats");
static_assert(offsetof(struct cimg_layer, input_gain) == 48, "cimg_layer.input_gain");
static_assert(offsetof(struct cimg_layer, input_full_scale) == 56, "cimg_layer.input_full_scale");
static_assert(offsetof(struct cimg_layer, adc_range_a) == 64, "cimg_layer.adc_range_a");
static_assert(offsetof(struct cimg_layer, column_repeats) == 72, "cimg_layer.column_repeats");
static_assert(offsetof(struct cimg_layer, repeated_reads) == 76, "cimg_layer.repeated_reads");

struct cimg_segment {
    uint32_t layer;
    uint32_t copy;
    uint32_t group;
    uint32_t row_slice;
    uint32_t column_tile;
    uint32_t tile_index;
    uint32_t chip;
    uint32_t tile;
    uint32_t height;
    uint32_t width;
    uint32_t first_row;
    uint32_t first_column;
    uint32_t rows_at;
    uint32_t columns_at;
    uint32_t converters_at;
    uint32_t unit_column;
};
static_assert(sizeof(struct cimg_segment) == 64, "cimg_segment");
static_assert(offsetof(struct cimg_segment, layer) == 0, "cimg_segment.layer");
static_assert(offsetof(struct cimg_segment, copy) == 4, "cimg_segment.copy");
static_assert(offsetof(struct cimg_segment, group) == 8, "cimg_segment.group");
static_assert(offsetof(struct cimg_segment, row_slice) == 12, "cimg_segment.row_slice");
static_assert(offsetof(struct cimg_segment, column_tile) == 16, "cimg_segment.column_tile");
static_assert(offsetof(struct cimg_segment, tile_index) == 20, "cimg_segment.tile_index");
static_assert(offsetof(struct cimg_segment, chip) == 24, "cimg_segment.chip");
static_assert(offsetof(struct cimg_segment, tile) == 28, "cimg_segment.tile");
static_assert(offsetof(struct cimg_segment, height) == 32, "cimg_segment.height");
static_assert(offsetof(struct cimg_segment, width) == 36, "cimg_segment.width");
static_assert(offsetof(struct cimg_segment, first_row) == 40, "cimg_segment.first_row");
static_assert(offsetof(struct cimg_segment, first_column) == 44, "cimg_segment.first_column");
static_assert(offsetof(struct cimg_segment, rows_at) == 48, "cimg_segment.rows_at");
static_assert(offsetof(struct cimg_segment, columns_at) == 52, "cimg_segment.columns_at");
static_assert(offsetof(struct cimg_segment, converters_at) == 56, "cimg_segment.converters_at");
static_assert(offsetof(struct cimg_segment, unit_column) == 60, "cimg_segment.unit_column");

struct cimg_converter {
    double gain;
    double offset_a;
    double weight_step;
    double unit_gain;
    double adc_range_a;
    int32_t sign;
    uint32_t weight_column;
    uint32_t plane;
    uint8_t reserved[12];
};
static_assert(sizeof(struct cimg_converter) == 64, "cimg_converter");
static_assert(offsetof(struct cimg_converter, gain) == 0, "cimg_converter.gain");
static_assert(offsetof(struct cimg_converter, offset_a) == 8, "cimg_converter.offset_a");
static_assert(offsetof(struct cimg_converter, weight_step) == 16, "cimg_converter.weight_step");
static_assert(offsetof(struct cimg_converter, unit_gain) == 24, "cimg_converter.unit_gain");
static_assert(offsetof(struct cimg_converter, adc_range_a) == 32, "cimg_converter.adc_range_a");
static_assert(offsetof(struct cimg_converter, sign) == 40, "cimg_converter.sign");
static_assert(offsetof(struct cimg_converter, weight_column) == 44, "cimg_converter.weight_column");
static_assert(offsetof(struct cimg_converter, plane) == 48, "cimg_converter.plane");
static_assert(offsetof(struct cimg_converter, reserved) == 52, "cimg_converter.reserved");

struct cimg_tile {
    uint32_t chip;
    uint32_t tile;
    uint32_t rows;
    uint32_t columns;
    uint64_t first_cell;
    double base_s;
    double step_s;
    uint32_t codes_per_level;
    uint32_t crc32;
    uint32_t used;
    uint8_t reserved[12];
};
static_assert(sizeof(struct cimg_tile) == 64, "cimg_tile");
static_assert(offsetof(struct cimg_tile, chip) == 0, "cimg_tile.chip");
static_assert(offsetof(struct cimg_tile, tile) == 4, "cimg_tile.tile");
static_assert(offsetof(struct cimg_tile, rows) == 8, "cimg_tile.rows");
static_assert(offsetof(struct cimg_tile, columns) == 12, "cimg_tile.columns");
static_assert(offsetof(struct cimg_tile, first_cell) == 16, "cimg_tile.first_cell");
static_assert(offsetof(struct cimg_tile, base_s) == 24, "cimg_tile.base_s");
static_assert(offsetof(struct cimg_tile, step_s) == 32, "cimg_tile.step_s");
static_assert(offsetof(struct cimg_tile, codes_per_level) == 40, "cimg_tile.codes_per_level");
static_assert(offsetof(struct cimg_tile, crc32) == 44, "cimg_tile.crc32");
static_assert(offsetof(struct cimg_tile, used) == 48, "cimg_tile.used");
static_assert(offsetof(struct cimg_tile, reserved) == 52, "cimg_tile.reserved");

struct cimg_cell {
    int32_t code;
    int32_t low;
    int32_t high;
    uint8_t use;
    uint8_t plane;
    uint16_t reserved;
};
static_assert(sizeof(struct cimg_cell) == 16, "cimg_cell");
static_assert(offsetof(struct cimg_cell, code) == 0, "cimg_cell.code");
static_assert(offsetof(struct cimg_cell, low) == 4, "cimg_cell.low");
static_assert(offsetof(struct cimg_cell, high) == 8, "cimg_cell.high");
static_assert(offsetof(struct cimg_cell, use) == 12, "cimg_cell.use");
static_assert(offsetof(struct cimg_cell, plane) == 13, "cimg_cell.plane");
static_assert(offsetof(struct cimg_cell, reserved) == 14, "cimg_cell.reserved");

struct cimg_setting {
    uint32_t address;
    uint32_t layer;
    double value;
};
static_assert(sizeof(struct cimg_setting) == 16, "cimg_setting");
static_assert(offsetof(struct cimg_setting, address) == 0, "cimg_setting.address");
static_assert(offsetof(struct cimg_setting, layer) == 4, "cimg_setting.layer");
static_assert(offsetof(struct cimg_setting, value) == 8, "cimg_setting.value");

struct cimg_recipe {
    uint32_t kind;
    uint32_t trials;
    double start_v;
    double stop_v;
    double step_v;
    double set_s;
    double reset_s;
    double doubling_v;
    double tolerance_s;
    double read_v;
    double pulse_time_s;
    double verify_time_s;
    double pulse_energy_j;
    double verify_energy_j;
    uint8_t reserved[24];
};
static_assert(sizeof(struct cimg_recipe) == 128, "cimg_recipe");
static_assert(offsetof(struct cimg_recipe, kind) == 0, "cimg_recipe.kind");
static_assert(offsetof(struct cimg_recipe, trials) == 4, "cimg_recipe.trials");
static_assert(offsetof(struct cimg_recipe, start_v) == 8, "cimg_recipe.start_v");
static_assert(offsetof(struct cimg_recipe, stop_v) == 16, "cimg_recipe.stop_v");
static_assert(offsetof(struct cimg_recipe, step_v) == 24, "cimg_recipe.step_v");
static_assert(offsetof(struct cimg_recipe, set_s) == 32, "cimg_recipe.set_s");
static_assert(offsetof(struct cimg_recipe, reset_s) == 40, "cimg_recipe.reset_s");
static_assert(offsetof(struct cimg_recipe, doubling_v) == 48, "cimg_recipe.doubling_v");
static_assert(offsetof(struct cimg_recipe, tolerance_s) == 56, "cimg_recipe.tolerance_s");
static_assert(offsetof(struct cimg_recipe, read_v) == 64, "cimg_recipe.read_v");
static_assert(offsetof(struct cimg_recipe, pulse_time_s) == 72, "cimg_recipe.pulse_time_s");
static_assert(offsetof(struct cimg_recipe, verify_time_s) == 80, "cimg_recipe.verify_time_s");
static_assert(offsetof(struct cimg_recipe, pulse_energy_j) == 88, "cimg_recipe.pulse_energy_j");
static_assert(offsetof(struct cimg_recipe, verify_energy_j) == 96, "cimg_recipe.verify_energy_j");
static_assert(offsetof(struct cimg_recipe, reserved) == 104, "cimg_recipe.reserved");

struct cimg_instruction {
    uint16_t opcode;
    uint16_t inputs;
    uint16_t outputs;
    uint16_t reserved;
    uint32_t stage;
    uint32_t target;
    uint32_t name;
    uint32_t first_operand;
    uint32_t positions;
    uint32_t reserved2;
};
static_assert(sizeof(struct cimg_instruction) == 32, "cimg_instruction");
static_assert(offsetof(struct cimg_instruction, opcode) == 0, "cimg_instruction.opcode");
static_assert(offsetof(struct cimg_instruction, inputs) == 2, "cimg_instruction.inputs");
static_assert(offsetof(struct cimg_instruction, outputs) == 4, "cimg_instruction.outputs");
static_assert(offsetof(struct cimg_instruction, reserved) == 6, "cimg_instruction.reserved");
static_assert(offsetof(struct cimg_instruction, stage) == 8, "cimg_instruction.stage");
static_assert(offsetof(struct cimg_instruction, target) == 12, "cimg_instruction.target");
static_assert(offsetof(struct cimg_instruction, name) == 16, "cimg_instruction.name");
static_assert(offsetof(struct cimg_instruction, first_operand) == 20, "cimg_instruction.first_operand");
static_assert(offsetof(struct cimg_instruction, positions) == 24, "cimg_instruction.positions");
static_assert(offsetof(struct cimg_instruction, reserved2) == 28, "cimg_instruction.reserved2");

struct cimg_vector {
    uint32_t layer;
    uint32_t phases;
    uint32_t inputs;
    uint32_t reads;
    uint32_t inputs_at;
    uint32_t reads_at;
    uint64_t reserved;
};
static_assert(sizeof(struct cimg_vector) == 32, "cimg_vector");
static_assert(offsetof(struct cimg_vector, layer) == 0, "cimg_vector.layer");
static_assert(offsetof(struct cimg_vector, phases) == 4, "cimg_vector.phases");
static_assert(offsetof(struct cimg_vector, inputs) == 8, "cimg_vector.inputs");
static_assert(offsetof(struct cimg_vector, reads) == 12, "cimg_vector.reads");
static_assert(offsetof(struct cimg_vector, inputs_at) == 16, "cimg_vector.inputs_at");
static_assert(offsetof(struct cimg_vector, reads_at) == 20, "cimg_vector.reads_at");
static_assert(offsetof(struct cimg_vector, reserved) == 24, "cimg_vector.reserved");

struct cimg_drive {
    float drive;
    uint32_t code;
};
static_assert(sizeof(struct cimg_drive) == 8, "cimg_drive");
static_assert(offsetof(struct cimg_drive, drive) == 0, "cimg_drive.drive");
static_assert(offsetof(struct cimg_drive, code) == 4, "cimg_drive.code");

struct cimg_read {
    float current_a;
    float band_a;
    int32_t code;
    int32_t band;
};
static_assert(sizeof(struct cimg_read) == 16, "cimg_read");
static_assert(offsetof(struct cimg_read, current_a) == 0, "cimg_read.current_a");
static_assert(offsetof(struct cimg_read, band_a) == 4, "cimg_read.band_a");
static_assert(offsetof(struct cimg_read, code) == 8, "cimg_read.code");
static_assert(offsetof(struct cimg_read, band) == 12, "cimg_read.band");

#pragma pack(pop)

#endif
