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

struct q4_0 {
    enum { numbers = 32, bytes = 18 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in);
        const u8* q = in + 2;
        for (int i = 0; i < 16; i++) put(out + i, d * (float)((q[i] & 15) - 8));
        for (int i = 0; i < 16; i++) put(out + 16 + i, d * (float)((q[i] >> 4) - 8));
    }
};

struct q4_1 {
    enum { numbers = 32, bytes = 20 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in), m = half(in + 2);
        const u8* q = in + 4;
        for (int i = 0; i < 16; i++) put(out + i, d * (float)(q[i] & 15) + m);
        for (int i = 0; i < 16; i++) put(out + 16 + i, d * (float)(q[i] >> 4) + m);
    }
};

struct q5_0 {
    enum { numbers = 32, bytes = 22 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in);
        uint32_t high;
        std::memcpy(&high, in + 2, 4);
        const u8* q = in + 6;
        for (int i = 0; i < 16; i++)
            put(out + i, d * (float)((int)((q[i] & 15u) | (high >> i & 1u) << 4) - 16));
        for (int i = 0; i < 16; i++)
            put(out + 16 + i, d * (float)((int)(q[i] >> 4 | (high >> (16 + i) & 1u) << 4) - 16));
    }
};

struct q5_1 {
    enum { numbers = 32, bytes = 24 };
    template <class T> static inline void decode(const u8* in, T* out) {
        float d = half(in), m = half(in + 2);
        uint32_t high;
        std::memcpy(&high, in + 4, 4);
        const u8* q = in + 8;
        for (int i = 0; i < 16; i++)
            put(out + i, d * (float)(int)((q[i] & 15u) | (high >> i & 1u) << 4) + m);
        for (int i = 0; i < 16; i++)
            put(out + 16 + i, d * (float)(int)(q[i] >> 4 | (high >> (16 + i) & 1u) << 4) + m);
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
        for (int j = 0; j < 16; j++) {  // 16 numbers share a scale
            float scale = d * (float)scales[j];
            int part = j / 8, quarter = j / 2 % 4, at = j % 2 * 16;
            const u8* low = in + part * 64 + quarter % 2 * 32 + at;
            const u8* high = in + 128 + part * 32 + at;
            int shift = quarter / 2 * 4, pair = quarter * 2;
            for (int i = 0; i < 16; i++)
                put(out + 16 * j + i,
                    scale * (float)(((low[i] >> shift & 15) | (high[i] >> pair & 3) << 4) - 32));
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

template <class T>
static void int8(const int8_t* codes, const float* scales, Rows rows, int64_t count, int64_t width,
                 T* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const int8_t* q = codes + rows[i] * width;
        float scale = scales[rows[i]];
        for (int64_t j = 0; j < width; j++) put(out + i * width + j, (float)q[j] * scale);
    }
}

extern "C" void decode_int8(const int8_t* codes, const float* scales, const int64_t* numbers,
                            int64_t first, int64_t count, int64_t width, void* out, int narrow,
                            int threads) {
    Rows rows{numbers, first};
    if (narrow) int8(codes, scales, rows, count, width, (uint16_t*)out, threads);
    else int8(codes, scales, rows, count, width, (float*)out, threads);
}

// A block of nf4 looks its numbers up among the 16 that its scale allows, already rounded. The upper
// half of a byte comes first.
static inline int32_t bits_of(float v, float*) { return __builtin_bit_cast(int32_t, v); }
static inline int32_t bits_of(float v, uint16_t*) { return rounded(v); }

static inline void put_pairs(float* out, const int32_t* high, const int32_t* low) {
    for (int i = 0; i < 16; i++) {
        out[2 * i] = __builtin_bit_cast(float, high[i]);
        out[2 * i + 1] = __builtin_bit_cast(float, low[i]);
    }
}
static inline void put_pairs(uint16_t* out, const int32_t* high, const int32_t* low) {
    int32_t pairs[16];
    for (int i = 0; i < 16; i++) pairs[i] = high[i] | low[i] << 16;
    std::memcpy(out, pairs, 64);
}

template <class T> static inline void nf4_block(const u8* in, const float* values, float scale, T* out) {
    alignas(64) int32_t table[16], high[16], low[16];
    for (int i = 0; i < 16; i++) table[i] = bits_of(values[i] * scale, out);
    for (int part = 0; part < 2; part++, in += 16, out += 32) {
        for (int i = 0; i < 16; i++) high[i] = in[i] >> 4;
        for (int i = 0; i < 16; i++) low[i] = in[i] & 15;
#if defined(__AVX512F__) && !defined(__clang__)
        typedef int32_t vector __attribute__((vector_size(64)));  // one instruction for 16 numbers
        *(vector*)high = __builtin_shuffle(*(vector*)table, *(vector*)high);
        *(vector*)low = __builtin_shuffle(*(vector*)table, *(vector*)low);
#else
        for (int i = 0; i < 16; i++) high[i] = table[high[i]];
        for (int i = 0; i < 16; i++) low[i] = table[low[i]];
#endif
        put_pairs(out, high, low);
    }
}

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
