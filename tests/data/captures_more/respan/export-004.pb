
Í	


service.name

helpdesk¬	
"
com.anthropic.sdk.python2.13.0…	
ê¡S×©_ùÅ÷Yıñ'Æhª°Oã°"±_±]$<*llm.claude-sonnet-4-5-2025092909œoweò#ëAĞDSnò#ëJ
server.address
	127.0.0.1J
server.port½J#
gen_ai.provider.name
	anthropicJ
gen_ai.operation.name
chatJ4
gen_ai.request.model
claude-sonnet-4-5-20250929J
gen_ai.request.max_tokens2J
http.request.method
POSTJ

http.route
/v1/messagesJ%
traceloop.entity.path

researcherJ'
traceloop.workflow.name

researcherJ

url.scheme
httpJ
url.path
/v1/messagesJ0
url.full$
"http://127.0.0.1:34749/v1/messagesJ 
gen_ai.usage.input_tokensà:J 
http.response.status_codeÈJ(
anthropic.request.id
req_b9769bd2fbJ0
gen_ai.response.id
msg_5e9f6ef8d63c442c92dfJ5
gen_ai.response.model
claude-sonnet-4-5-20250929J,
%gen_ai.usage.cache_write.input_tokensäJ+
$gen_ai.usage.cache_read.input_tokens±J?
8anthropic.usage.cache_creation.ephemeral_5m_input_tokens»J?
8anthropic.usage.cache_creation.ephemeral_1h_input_tokens©J-
anthropic.response.service_tier

standardJ!
gen_ai.usage.output_tokensƒJ+
anthropic.message.stop_reason

end_turnJ0
$respan.metadata._tracing_sdk_version
2.24.0z