// sum <= (clear ? 0 : sum) + a * b in IEEE 754 binary32, one clock; only the sum is a register.
// Product and sum are both rounded, to nearest, ties to even (no fused multiply-add). What differs
// from the standard: subnormals are taken as zeros, results that are below 2^-126 once rounded to
// 24 bits become zeros of their sign, and every NaN is 7fc00000. Infinities are the standard's.
module mac_fp32 (
    input clock,
    input clear,
    input [31:0] a,
    input [31:0] b,
    output reg [31:0] sum
);
    wire [31:0] product, total;

    multiply_fp32 multiply (.a(a), .b(b), .product(product));
    add_fp32 add (.a(clear ? 32'd0 : sum), .b(product), .sum(total));
    always @(posedge clock) sum <= total;
endmodule

module multiply_fp32 (
    input [31:0] a,
    input [31:0] b,
    output [31:0] product
);
    wire sign = a[31] ^ b[31];
    wire a_zero = a[30:23] == 0, b_zero = b[30:23] == 0;
    wire a_large = a[30:23] == 255, b_large = b[30:23] == 255;  // infinity or NaN
    wire a_nan = a_large & (a[22:0] != 0), b_nan = b_large & (b[22:0] != 0);
    wire nan = a_nan | b_nan | (a_large & b_zero) | (a_zero & b_large);

    wire [23:0] a_digits = {1'b1, a[22:0]}, b_digits = {1'b1, b[22:0]};
    wire [47:0] digits = a_digits * b_digits;  // in [1, 4), as 2.46 bits
    wire [47:0] normal = digits[47] ? digits : {digits[46:0], 1'b0};
    wire signed [10:0] exponent =
        $signed({3'd0, a[30:23]}) + $signed({3'd0, b[30:23]}) - 11'sd127
        + $signed({10'd0, digits[47]});
    wire [31:0] rounded;

    round_fp32 round (
        .sign(sign), .exponent(exponent), .digits(normal[47:24]), .half(normal[23]),
        .rest(normal[22:0] != 0), .result(rounded)
    );
    assign product =
        nan ? 32'h7fc00000 :
        a_large | b_large ? {sign, 8'hff, 23'd0} :
        a_zero | b_zero ? {sign, 31'd0} : rounded;
endmodule

module add_fp32 (
    input [31:0] a,
    input [31:0] b,
    output [31:0] sum
);
    wire a_zero = a[30:23] == 0, b_zero = b[30:23] == 0;
    wire a_large = a[30:23] == 255, b_large = b[30:23] == 255;
    wire a_nan = a_large & (a[22:0] != 0), b_nan = b_large & (b[22:0] != 0);
    wire minus = a[31] ^ b[31];
    wire nan = a_nan | b_nan | (a_large & b_large & minus);

    // `more` is the one of larger magnitude; `less`, the other, is shifted to its exponent, with
    // three bits below the last digit, of which the lowest says whether anything was shifted out.
    wire swap = b[30:0] > a[30:0];
    wire [31:0] more = swap ? b : a, less = swap ? a : b;
    wire less_zero = swap ? a_zero : b_zero;
    wire [7:0] distance = more[30:23] - less[30:23];
    wire [4:0] shift = distance > 27 ? 5'd27 : distance[4:0];
    wire [26:0] digits = {1'b1, more[22:0], 3'd0};
    wire [53:0] shifted = {!less_zero, less_zero ? 23'd0 : less[22:0], 30'd0} >> shift;
    wire [26:0] aligned = {shifted[53:28], shifted[27:0] != 0};
    wire [27:0] total = minus ? digits - aligned : digits + aligned;

    // Leading zeros away, in powers of two.
    wire none_16 = total[27:12] == 0;
    wire [27:0] by_16 = none_16 ? {total[11:0], 16'd0} : total;
    wire none_8 = by_16[27:20] == 0;
    wire [27:0] by_8 = none_8 ? {by_16[19:0], 8'd0} : by_16;
    wire none_4 = by_8[27:24] == 0;
    wire [27:0] by_4 = none_4 ? {by_8[23:0], 4'd0} : by_8;
    wire none_2 = by_4[27:26] == 0;
    wire [27:0] by_2 = none_2 ? {by_4[25:0], 2'd0} : by_4;
    wire none_1 = by_2[27] == 0;
    wire [27:0] normal = none_1 ? {by_2[26:0], 1'd0} : by_2;
    wire signed [10:0] exponent =
        $signed({3'd0, more[30:23]}) + 11'sd1
        - $signed({6'd0, none_16, none_8, none_4, none_2, none_1});
    wire [31:0] rounded;

    round_fp32 round (
        .sign(more[31]), .exponent(exponent), .digits(normal[27:4]), .half(normal[3]),
        .rest(normal[2:0] != 0), .result(rounded)
    );
    assign sum =
        nan ? 32'h7fc00000 :
        a_large | b_large ? {more[31], 8'hff, 23'd0} :
        a_zero & b_zero ? {a[31] & b[31], 31'd0} :
        total == 0 ? 32'd0 : rounded;
endmodule

// digits * 2^(exponent - 127 - 23), with half a unit more where `half`, and less than that where
// `rest`; the first digit is 1.
module round_fp32 (
    input sign,
    input signed [10:0] exponent,
    input [23:0] digits,
    input half,
    input rest,
    output [31:0] result
);
    wire up = half & (rest | digits[0]);
    wire [24:0] rounded = {1'b0, digits} + {24'd0, up};  // where it carries, all digits are 0
    wire signed [10:0] place = exponent + $signed({10'd0, rounded[24]});

    assign result =
        place > 11'sd254 ? {sign, 8'hff, 23'd0} :
        place < 11'sd1 ? {sign, 31'd0} : {sign, place[7:0], rounded[22:0]};
endmodule
