// sum <= (clear ? 0 : sum) + a * b, two's complement. 16 bits more than a product has: 65,536
// products add up without overflow. One clock; only the sum is a register.
module mac_int #(
    parameter WIDTH = 8,
    parameter SUM_WIDTH = 2 * WIDTH + 16
) (
    input clock,
    input clear,
    input signed [WIDTH-1:0] a,
    input signed [WIDTH-1:0] b,
    output reg signed [SUM_WIDTH-1:0] sum
);
    wire signed [2*WIDTH-1:0] product = a * b;
    wire signed [SUM_WIDTH-1:0] before = clear ? {SUM_WIDTH{1'b0}} : sum;

    always @(posedge clock) sum <= before + product;
endmodule
