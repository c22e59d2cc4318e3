// Decodes rows of stored weights, as kinds_gguf.py and kinds_nf4.py do, bit for bit, in one pass.
//
// kinds_native.py compiles this file for the processor that it runs on. Loops are plain, and the
// compiler makes vectors of them. It must not fuse a product and a sum (-ffp-contract=off).

#include <cstdint>
#include <cstring>

typedef uint8_t u8;

static inline float half(const u8* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    uint32_t bits = (h & 0x7fffu) << 13;
    float scaled = __builtin_bit_cast(float, bits) * 0x1p112f;  // exponents of 5 bits have bias 15
    bits = __builtin_bit_cast(uint32_t, scaled);
    if ((h & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
    bits |= (h & 0x8000u) << 16;
    return __builtin_bit_cast(float, bits);
}

static inline uint16_t rounded(float v) {  // to bfloat16, half to even
    uint32_t bits = __builtin_bit_cast(uint32_t, v);
    uint32_t up = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : up;
}
static inline void put(float* out, float v) { *out = v; }
static inline void put(uint16_t* out, float v) { *out = rounded(v); }

struct q8_0 {
    enum { numbers = 32, bytes = 34 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in);
        const int8_t* q = (const int8_t*)in + 2;
        for (int i = 0; i < 32; i++) put(out + i, d * (float)q[i]);
    }
};

// Codes are unpacked to bytes first, eight at a time: the lower halves of 16 bytes, then the upper.
static inline void halves(const u8* in, u8* q) {
    const uint64_t half_bytes = 0x0f0f0f0f0f0f0f0full;
    uint64_t codes[2];
    std::memcpy(codes, in, 16);
    uint64_t found[4] = {codes[0] & half_bytes, codes[1] & half_bytes,
                         codes[0] >> 4 & half_bytes, codes[1] >> 4 & half_bytes};
    std::memcpy(q, found, 32);
}
static inline void with_fifth_bits(const u8* in, u8* q) {  // 4 bytes of these bits come first
    uint32_t high;
    std::memcpy(&high, in, 4);
    halves(in + 4, q);
    for (int i = 0; i < 32; i++) q[i] |= (high >> i & 1u) << 4;
}

struct q4_0 {
    enum { numbers = 32, bytes = 18 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in);
        u8 q[32];
        halves(in + 2, q);
        for (int i = 0; i < 32; i++) put(out + i, d * (float)(q[i] - 8));
    }
};

struct q4_1 {
    enum { numbers = 32, bytes = 20 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in), m = half(in + 2);
        u8 q[32];
        halves(in + 4, q);
        for (int i = 0; i < 32; i++) put(out + i, d * (float)q[i] + m);
    }
};

struct q5_0 {
    enum { numbers = 32, bytes = 22 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in);
        u8 q[32];
        with_fifth_bits(in + 2, q);
        for (int i = 0; i < 32; i++) put(out + i, d * (float)(q[i] - 16));
    }
};

struct q5_1 {
    enum { numbers = 32, bytes = 24 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in), m = half(in + 2);
        u8 q[32];
        with_fifth_bits(in + 4, q);
        for (int i = 0; i < 32; i++) put(out + i, d * (float)q[i] + m);
    }
};

static inline void scale_and_minimum(const u8* s, int j, float d, float m, float* scale, float* min) {
    int a = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 2 & 48);
    int b = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 2 & 48);
    *scale = d * (float)a;
    *min = m * (float)b;
}

struct q4_k {
    enum { numbers = 256, bytes = 144 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in), m = half(in + 2), scale, min;
        for (int j = 0; j < 8; j++) {
            scale_and_minimum(in + 4, j, d, m, &scale, &min);
            const u8* q = in + 16 + j / 2 * 32;
            int shift = j % 2 * 4;
            for (int i = 0; i < 32; i++)
                put(out + 32 * j + i, scale * (float)(q[i] >> shift & 15) - min);
        }
    }
};

struct q5_k {
    enum { numbers = 256, bytes = 176 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in), m = half(in + 2), scale, min;
        const u8* high = in + 16;
        for (int j = 0; j < 8; j++) {
            scale_and_minimum(in + 4, j, d, m, &scale, &min);
            const u8* q = in + 48 + j / 2 * 32;
            int shift = j % 2 * 4;
            for (int i = 0; i < 32; i++)
                put(out + 32 * j + i,
                    scale * (float)((q[i] >> shift & 15) | (high[i] >> j & 1) << 4) - min);
        }
    }
};

struct q6_k {
    enum { numbers = 256, bytes = 210 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in + 208);
        const int8_t* scales = (const int8_t*)in + 192;
        for (int j = 0; j < 8; j++) {
            const u8* low = in + j / 4 * 64 + j % 2 * 32;
            const u8* high = in + 128 + j / 4 * 32;
            int shift = j % 4 / 2 * 4, pair = j % 4 * 2;
            float each[32];  // 16 numbers share a scale
            for (int i = 0; i < 16; i++) each[i] = d * (float)scales[2 * j];
            for (int i = 16; i < 32; i++) each[i] = d * (float)scales[2 * j + 1];
            for (int i = 0; i < 32; i++) {
                int q = ((low[i] >> shift & 15) | (high[i] >> pair & 3) << 4) - 32;
                put(out + 32 * j + i, each[i] * (float)q);
            }
        }
    }
};

// The rows of a matrix: those with the given numbers or, without numbers, those from `first` on.
struct Rows {
    const int64_t* numbers;
    int64_t first;
    int64_t operator[](int64_t i) const { return numbers ? numbers[i] : first + i; }
};

template <class Kind, class T>
static void blocks(const u8* data, int64_t stride, Rows rows, int64_t count, int64_t width, T* out,
                   int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const u8* in = data + rows[i] * stride;
        T* row = out + i * width;
        for (int64_t at = 0; at < width; at += Kind::numbers, in += Kind::bytes)
            Kind::decode(in, row + at);
    }
}

#define BLOCKS(KIND)                                                                             \
    extern "C" void decode_##KIND(const u8* data, int64_t stride, const int64_t* numbers,        \
                                  int64_t first, int64_t count, int64_t width, void* out,        \
                                  int narrow, int threads) {                                     \
        Rows rows{numbers, first};                                                               \
        if (narrow) blocks<KIND>(data, stride, rows, count, width, (uint16_t*)out, threads);     \
        else blocks<KIND>(data, stride, rows, count, width, (float*)out, threads);               \
    }
BLOCKS(q8_0)
BLOCKS(q4_0)
BLOCKS(q4_1)
BLOCKS(q5_0)
BLOCKS(q5_1)
BLOCKS(q4_k)
BLOCKS(q5_k)
BLOCKS(q6_k)

// The value of a code of float8_e4m3fn: a sign, four bits of exponent, three of mantissa.
static inline float of_fp8(u8 code) {
    int exponent = code >> 3 & 15, mantissa = code & 7;
    if ((code & 127) == 127) return __builtin_nanf("");
    float size = exponent ? __builtin_ldexpf(8 + mantissa, exponent - 10)
                          : __builtin_ldexpf(mantissa, -9);
    return code & 128 ? -size : size;
}

struct Fp8Values {
    float of[256];
    Fp8Values() {
        for (int code = 0; code < 256; code++) of[code] = of_fp8((u8)code);
    }
};
static const Fp8Values fp8_values;

static inline float value(int8_t code) { return (float)code; }
static inline float value(u8 code) { return fp8_values.of[code]; }

// Codes of one byte, with a scale for each row.
template <class Code, class T>
static void scaled(const Code* codes, const float* scales, Rows rows, int64_t count, int64_t width,
                   T* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const Code* q = codes + rows[i] * width;
        float scale = scales[rows[i]];
        for (int64_t j = 0; j < width; j++) put(out + i * width + j, value(q[j]) * scale);
    }
}

extern "C" void decode_int8(const int8_t* codes, const float* scales, const int64_t* numbers,
                            int64_t first, int64_t count, int64_t width, void* out, int narrow,
                            int threads) {
    Rows rows{numbers, first};
    if (narrow) scaled(codes, scales, rows, count, width, (uint16_t*)out, threads);
    else scaled(codes, scales, rows, count, width, (float*)out, threads);
}

extern "C" void decode_fp8(const u8* codes, const float* scales, const int64_t* numbers,
                           int64_t first, int64_t count, int64_t width, void* out, int narrow,
                           int threads) {
    Rows rows{numbers, first};
    if (narrow) scaled(codes, scales, rows, count, width, (uint16_t*)out, threads);
    else scaled(codes, scales, rows, count, width, (float*)out, threads);
}

// A block of nf4 looks its numbers up among the 16 that its scale allows, already rounded. The upper
// half of a byte comes first.
#if defined(__AVX512F__) && !defined(__clang__)
// One instruction looks up 16 numbers; these vectors are written out, so that they stay in registers.
typedef float floats __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef u8 bytes16 __attribute__((vector_size(16)));

static inline void put_pairs(float* out, words high, words low) {
    const words first = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    words a = __builtin_shuffle(high, low, first), b = __builtin_shuffle(high, low, first + 8);
    std::memcpy(out, &a, 64);
    std::memcpy(out + 16, &b, 64);
}
static inline void put_pairs(uint16_t* out, words high, words low) {
    words pairs = high | low << 16;
    std::memcpy(out, &pairs, 64);
}
static inline words table_of(words bits, float*) { return bits; }
static inline words table_of(words bits, uint16_t*) {
    words up = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (bits & 0x7fffffffu) > 0x7f800000u ? words{} + 0x7fc0u : up;
}

template <class T> static inline void nf4_block(const u8* in, const float* values, float scale, T* out) {
    floats numbers;
    std::memcpy(&numbers, values, 64);
    words table = table_of((words)(numbers * scale), out);
    for (int part = 0; part < 2; part++) {
        bytes16 pairs;
        std::memcpy(&pairs, in + part * 16, 16);
        words codes = __builtin_convertvector(pairs, words);
        put_pairs(out + part * 32, __builtin_shuffle(table, codes >> 4),
                  __builtin_shuffle(table, codes & 15));
    }
}
#else
template <class T> static inline void nf4_block(const u8* in, const float* values, float scale, T* out) {
    T table[16];
    for (int i = 0; i < 16; i++) put(table + i, values[i] * scale);
    for (int i = 0; i < 32; i++) {
        out[2 * i] = table[in[i] >> 4];
        out[2 * i + 1] = table[in[i] & 15];
    }
}
#endif

template <class T>
static void nf4(const u8* codes, const u8* scales, const float* nested, float offset,
                const float* map, const float* values, Rows rows, int64_t count, int64_t width,
                T* out, int threads) {
    int64_t across = width / 64;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        int64_t first = rows[i] * across;
        for (int64_t j = 0; j < across; j++) {
            int64_t block = first + j;
            float scale = map[scales[block]] * nested[block / 256] + offset;
            nf4_block(codes + block * 32, values, scale, out + i * width + j * 64);
        }
    }
}

extern "C" void decode_nf4(const u8* codes, const u8* scales, const float* nested, float offset,
                           const float* map, const float* values, const int64_t* numbers,
                           int64_t first, int64_t count, int64_t width, void* out, int narrow,
                           int threads) {
    Rows rows{numbers, first};
    if (narrow)
        nf4(codes, scales, nested, offset, map, values, rows, count, width, (uint16_t*)out, threads);
    else nf4(codes, scales, nested, offset, map, values, rows, count, width, (float*)out, threads);
}

// Codes of nf4 for blocks of float32: how many of the 15 middles between values lie below a number.
extern "C" void encode_nf4(const float* in, const float* middles, float least, int64_t blocks,
                           u8* codes, float* largest, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        const float* x = in + block * 64;
        float most = 0, scaled[64];
        for (int i = 0; i < 64; i++) most = __builtin_fabsf(x[i]) > most ? __builtin_fabsf(x[i]) : most;
        for (int i = 0; i < 64; i++)  // what is not a number must not be hidden
            if (x[i] != x[i]) most = x[i];
        largest[block] = most;
        float inverse = 1.0f / (most > least ? most : least);
        for (int i = 0; i < 64; i++) {
            float v = x[i] * inverse;
            v = v < -1.0f ? -1.0f : v;
            scaled[i] = v > 1.0f ? 1.0f : v;
        }
        int32_t found[64] = {0};
        for (int j = 0; j < 15; j++)
            for (int i = 0; i < 64; i++) found[i] += scaled[i] > middles[j];
        for (int i = 0; i < 32; i++) codes[block * 32 + i] = found[2 * i] << 4 | found[2 * i + 1];
    }
}
