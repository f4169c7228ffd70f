//! What OpenAI's clients send and read: wire types, which know nothing of engines.

mod fields;

mod message;

mod sampling;

mod chat;

mod completion;

mod response_object;

mod responses;

mod answer;

mod models;

mod tokens;

pub(crate) use answer::{Answer, Progress, PromptDetails, Timings, Usage};
pub(crate) use chat::{
    AssistantMessage, ChatChoice, ChatChunkChoice, ChatLogprobs, ChatRequest, Delta, TokenLogprob,
    TopLogprob,
};
pub(crate) use completion::{
    CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt, TopTokens,
};
pub(crate) use fields::{FieldError, Object, Unsupported, read};
pub(crate) use message::Message;
pub(crate) use models::{ModelList, ModelObject};
pub(crate) use response_object::{
    DeletedResponse, IncompleteDetails, ItemList, OutputMessage, OutputText, Reasoning,
    ResponseError, ResponseEvent, ResponseObject, ResponseUsage, Status,
};
pub(crate) use responses::{INCLUDABLE, INCLUDE_LOGPROBS, Item, ResponseRequest};
pub(crate) use sampling::{Answers, Sampling};
pub(crate) use tokens::{
    DetokenizeRequest, Detokenized, Piece, Rendered, TokenPiece, TokenizeRequest, Tokenized, Tokens,
};
